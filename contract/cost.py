"""What a job costs: pixels × steps × branches, summed over its pictures."""

from contract.job import Job
from contract.plan import Sega, Sld


def cost_of(job: Job) -> int:
    """The most UNet work that a job can take, in pixel-steps. Branches that turn out alike are computed once."""
    pictures = (job.of_picture(index) for index in range(len(job.seeds)))
    return job.width * job.height * job.steps * sum(map(_branches, pictures))


def _branches(job: Job) -> int:
    """How often one step of one picture calls the UNet."""
    if job.guidance_scale <= 1:
        return 1
    match job.plan.guidance:
        case Sld():
            return 3
        case Sega(concepts=concepts):
            return 2 + len(concepts or (None,))
    return 2
