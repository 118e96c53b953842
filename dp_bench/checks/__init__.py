"""Check a configuration beyond the types of its values.

`ranges` has what each setting may be, `task` the relations within a task, `relations` those of a run.
"""

from dp_bench.checks.ranges import name_problems
from dp_bench.checks.relations import problems_of, refuse_ranks
from dp_bench.checks.task import task_problems

__all__ = ["name_problems", "problems_of", "refuse_ranks", "task_problems"]
