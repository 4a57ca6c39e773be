"""Published cells, as genotypes in the form of DARTS's repository (github.com/quark0/darts, {cnn,rnn}/genotypes.py).

Each entry: pairs (operation, input), two a node, of the normal and the reduction cell, and the nodes concatenated; of a
recurrent cell pairs (activation, input), one a node, and the nodes whose mean is the output.
"""

from search_spaces.genotype import Genotype, Recurrent

# Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019; first order
DARTS_V1 = Genotype(
    normal=(
        *(("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0), ("sep_conv_3x3", 1)),
        *(("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 2)),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        *(("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0)),
        *(("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("avg_pool_3x3", 0)),
    ),
    reduce_concat=(2, 3, 4, 5),
)

# the same, second order: 2.76 % test error with 3.3 million parameters
DARTS_V2 = Genotype(
    normal=(
        *(("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        *(("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2)),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        *(("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1)),
        *(("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1)),
    ),
    reduce_concat=(2, 3, 4, 5),
)

# Zoph, Vasudevan, Shlens and Le, "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018
NASNET_A = Genotype(
    normal=(
        *(("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 0), ("sep_conv_3x3", 0)),
        *(("avg_pool_3x3", 1), ("skip_connect", 0), ("avg_pool_3x3", 0), ("avg_pool_3x3", 0)),
        *(("sep_conv_3x3", 1), ("skip_connect", 1)),
    ),
    normal_concat=(2, 3, 4, 5, 6),
    reduce=(
        *(("sep_conv_5x5", 1), ("sep_conv_7x7", 0), ("max_pool_3x3", 1), ("sep_conv_7x7", 0)),
        *(("avg_pool_3x3", 1), ("sep_conv_5x5", 0), ("skip_connect", 3), ("avg_pool_3x3", 2)),
        *(("sep_conv_3x3", 2), ("max_pool_3x3", 1)),
    ),
    reduce_concat=(4, 5, 6),
)

# Real, Aggarwal, Huang and Le, "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019
AMOEBANET_A = Genotype(
    normal=(
        *(("avg_pool_3x3", 0), ("max_pool_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 2)),
        *(("sep_conv_3x3", 0), ("avg_pool_3x3", 3), ("sep_conv_3x3", 1), ("skip_connect", 1)),
        *(("skip_connect", 0), ("avg_pool_3x3", 1)),
    ),
    normal_concat=(4, 5, 6),
    reduce=(
        *(("avg_pool_3x3", 0), ("sep_conv_3x3", 1), ("max_pool_3x3", 0), ("sep_conv_7x7", 2)),
        *(("sep_conv_7x7", 0), ("avg_pool_3x3", 1), ("max_pool_3x3", 0), ("max_pool_3x3", 1)),
        *(("conv_7x1_1x7", 0), ("sep_conv_3x3", 5)),
    ),
    reduce_concat=(3, 4, 6),
)

PUBLISHED = {"DARTS_V1": DARTS_V1, "DARTS_V2": DARTS_V2, "NASNet-A": NASNET_A, "AmoebaNet-A": AMOEBANET_A}

# Liu et al. 2019, first order: test perplexity 57.6 on the Penn Treebank with 23 million parameters
DARTS_RNN_V1 = Recurrent(
    (
        *(("relu", 0), ("relu", 1), ("tanh", 2), ("relu", 3)),
        *(("relu", 4), ("identity", 1), ("relu", 5), ("relu", 1)),
    ),
    tuple(range(1, 9)),
)

# the same, second order: 55.7
DARTS_RNN_V2 = Recurrent(
    (
        *(("sigmoid", 0), ("relu", 1), ("relu", 1), ("identity", 1)),
        *(("tanh", 2), ("sigmoid", 5), ("tanh", 3), ("relu", 5)),
    ),
    tuple(range(1, 9)),
)

RECURRENT = {"DARTS_V1": DARTS_RNN_V1, "DARTS_V2": DARTS_RNN_V2}
