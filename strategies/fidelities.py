"""What strategies that train for several numbers of epochs refuse alike."""

from collections.abc import Sequence

from nas.errors import BadInput


def check_fidelities(name: str, fidelities: Sequence[int], budget: int | None, trainings: int | None, eta: int = 2):
    """Refuses what is no rising list of epochs, no budget at all, or an eta below 2.

    Raises:
        BadInput: says which.
    """
    if not isinstance(fidelities, Sequence) or isinstance(fidelities, str):
        raise BadInput(f"{name}: fidelities are {fidelities!r}; give a list of epochs such as [1, 3]")
    numbers = [f for f in fidelities if isinstance(f, int) and not isinstance(f, bool) and f >= 1]
    if len(numbers) != len(fidelities) or not numbers or numbers != sorted(set(numbers)):
        raise BadInput(f"{name}: fidelities are {list(fidelities)}; give rising whole numbers of epochs such as [1, 3]")
    if eta < 2:
        raise BadInput(f"{name}: eta is {eta}; it must be at least 2")
    if budget is None and trainings is None:
        raise BadInput(f"{name}: give budget=EPOCHS and/or trainings=N")
    for what, value in (("budget", budget), ("trainings", trainings)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise BadInput(f"{name}: {what} is {value}; it must be a whole number of at least 1")


def too_small(name: str, fidelities: Sequence[int], budget: int | None, trainings: int | None) -> BadInput:
    """The error for a budget that nothing fits into."""
    return BadInput(
        f"{name}: a budget of {budget or 'any'} epochs and {trainings or 'any'} trainings is too small for one "
        f"candidate at each of {list(fidelities)} epochs; give more, or fewer fidelities"
    )
