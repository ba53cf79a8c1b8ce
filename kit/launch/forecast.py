"""How long the stages that are left will take on one machine, by what they took before."""

from collections.abc import Collection, Mapping, Sequence

from kit.launch.tasks import Task


def seconds_left(
    tasks: Sequence[Task], usual: Mapping[str, float], jobs: int, running: Mapping[str, float]
) -> float | None:
    """Seconds until all are done, each started as soon as it can be; None where one was never timed.

    Args:
        tasks: that are not done yet, the earlier the sooner they are started.
        usual: seconds that each takes, by name.
        jobs: stages side by side at most.
        running: seconds for which those at work have run, by name.
    """
    if any(task.name not in usual for task in tasks):
        return None
    ends = {name: max(usual[name] - spent, 0.0) for name, spent in running.items()}
    waiting = [task for task in tasks if task.name not in ends]
    left = {task.name for task in tasks}
    clock = 0.0
    while ends or waiting:
        for task in [one for one in waiting if not _blocked(one, left)]:
            if len(ends) < jobs:
                waiting.remove(task)
                ends[task.name] = clock + usual[task.name]
        assert ends, "stages that wait for each other"
        name = min(ends, key=lambda one: ends[one])
        clock = ends.pop(name)
        left.discard(name)
    return clock


def _blocked(task: Task, left: Collection[str]) -> bool:
    return any(name in left for name in task.after)


def spelled(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
