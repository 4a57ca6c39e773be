"""Search spaces: one file each, and by name the factories that a configuration may call."""

from search_spaces.cells import amoebanet, darts, nasnet
from search_spaces.darts_rnn import darts_rnn
from search_spaces.gpt import gpt
from search_spaces.hat import hat
from search_spaces.mobile_families import fbnet, mnasnet, nas_bench_macro, proxylessnas
from search_spaces.mobile_named import mobile
from search_spaces.nasbench201 import nasbench201
from search_spaces.ofa_resnet import ofa_resnet
from search_spaces.once_for_all import ofa_mbv3, ofa_mbv3_small
from search_spaces.size import nats_size

SPACES = {
    "nasbench201": nasbench201,
    "nats_size": nats_size,
    "darts": darts,
    "nasnet": nasnet,
    "amoebanet": amoebanet,
    "nas_bench_macro": nas_bench_macro,
    "fbnet": fbnet,
    "proxylessnas": proxylessnas,
    "mnasnet": mnasnet,
    "mobile": mobile,
    "ofa_mbv3": ofa_mbv3,
    "ofa_mbv3_small": ofa_mbv3_small,
    "ofa_resnet": ofa_resnet,
    "darts_rnn": darts_rnn,
    "gpt": gpt,
    "hat": hat,
}
