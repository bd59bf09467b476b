"""What can go wrong by the user's hand; each message says what was given, what was expected, what to do.

ThalwegError
├── AlgorithmError     an unknown algorithm, schedule or knob, or one that cannot be used this way (a ValueError too)
│   ├── KnobError      an unknown knob of an optimizer (a TypeError too)
│   ├── GradientError  gradients that an algorithm cannot take (a RuntimeError too)
│   └── CurvatureError second derivatives that cannot be had of an objective, or not trusted
├── StateError         an optimizer's state_dict that is another one's (a ValueError too)
├── NetworkError       a model that cannot be one vector, or whose output does not fit its loss
├── ProblemError       a problem that cannot be loaded: file, table, target, split
├── BudgetError        a budget too small to try anything
├── DiagnosisError     something that cannot be measured, and why
├── DivergenceError    a loss that is no longer a finite number
└── StorageError       a folder, checkpoint or study that cannot be read, written or continued
"""


class ThalwegError(Exception):
    """The root: the command line prints its one line and exits with 2."""


class AlgorithmError(ThalwegError, ValueError):
    """An unknown algorithm, schedule or knob, or one that cannot be used this way."""


class KnobError(AlgorithmError, TypeError):
    """An unknown knob of an optimizer: what torch answers with a TypeError."""


class GradientError(AlgorithmError, RuntimeError):
    """Gradients that an algorithm cannot take: what torch answers with a RuntimeError."""


class CurvatureError(AlgorithmError):
    """Second derivatives that cannot be had of an objective, or not trusted."""


class StateError(ThalwegError, ValueError):
    """An optimizer's state_dict that is another one's: of another rule, other shapes or other names."""


class NetworkError(ThalwegError):
    """A model that cannot be one vector, or whose output does not fit its loss."""


class ProblemError(ThalwegError):
    """A problem that cannot be loaded."""


class BudgetError(ThalwegError):
    """A budget too small to try anything."""


class DiagnosisError(ThalwegError):
    """Something that cannot be measured; the message says why, and what would be needed."""


class DivergenceError(ThalwegError):
    """A loss that is no longer a finite number."""


class StorageError(ThalwegError):
    """A folder, checkpoint or study that cannot be read, written or continued."""
