"""The one error of model files: what is wrong with which role, and what mends it."""


class WeightError(RuntimeError):
    """A model file is missing, not the one that the manifest names, or not allowed for the intended use.

    Attributes:
        role: the role that was asked for.
        problem: what is wrong.
        remedy: the command, or the deed, that mends it.
    """

    def __init__(self, role: str, problem: str, remedy: str) -> None:
        super().__init__(role, problem, remedy)
        self.role = role
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"weights for {self.role}: {self.problem}. To mend it: {self.remedy}"
