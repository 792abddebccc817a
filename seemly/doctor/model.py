"""The worker's machine and model: the device, the weights as pinned, the detector; and what workers have announced."""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from contract import keys
from contract.model import ModelInfo
from seemly.doctor.finding import Deployment, Findings, fault, ok, skipped, warning
from workers.safety.detectors.choices import DetectorChoices

LEAST_FREE = 0.25  # of the device's memory


def is_torch_here() -> bool:
    """Whether torch is installed, which only a worker needs."""
    return find_spec("torch") is not None


def check_device(deployment: Deployment) -> Findings:
    """Look at the GPU."""
    if not deployment.is_worker_here:
        yield skipped("gpu", "no worker runs here; look with --of worker where one does")
        return
    import torch

    from workers.main import UnusableSetting, choose_device

    wanted = deployment.worker.device
    try:
        chosen = choose_device(wanted)
    except UnusableSetting as error:
        if not wanted.startswith("cuda"):
            yield fault("gpu", str(error), "set SEEMLY_DEVICE to auto, cuda or cpu")
            return
        chosen = torch.device("cpu")
    if chosen.type == "cuda":
        free, whole = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        if free < LEAST_FREE * whole:
            yield warning("gpu", f"{name} has {free / 1e9:.1f} of {whole / 1e9:.1f} GB free", "see who holds the rest")
        else:
            yield ok("gpu", f"{name}, {free / 1e9:.1f} of {whole / 1e9:.1f} GB free")
    elif wanted.startswith("cuda"):
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        todo = "give the container a GPU (compose: profile gpu; Kubernetes: nvidia.com/gpu), or set SEEMLY_DEVICE=cpu"
        yield fault(
            "gpu", f"SEEMLY_DEVICE={wanted}, and no GPU can be used; torch {torch.__version__} is {built}", todo
        )
    else:
        yield ok("gpu", f"SEEMLY_DEVICE={wanted}: the worker computes on the CPU, right for the demo model only")


def check_variants(deployment: Deployment) -> Findings:
    """Look at the folder of erased weights."""
    folder = deployment.worker.variants
    if not deployment.is_worker_here or folder.is_dir():
        return
    if folder.exists():
        yield fault("variants", f"SEEMLY_VARIANTS={folder} is no folder, so the worker does not start", "name one")
    else:
        todo = "mount or make it, if there are to be any; seemly erase and labs put them there"
        yield warning("variants", f"SEEMLY_VARIANTS={folder} is not there: no erased weights are served", todo)


def check_provenance(deployment: Deployment) -> Findings:
    """Try the signature of pictures, where there is to be one."""
    settings = deployment.worker
    if not deployment.is_worker_here:
        yield skipped("provenance", "no worker runs here, so nothing is signed")
        return
    from workers.main import UnusableSetting, signature_of

    try:
        signature = signature_of(settings)
    except UnusableSetting as error:
        todo = "mend it (seemly provenance certificate), or set SEEMLY_PROVENANCE=metadata; the worker does not start"
        yield fault("provenance", str(error), todo)
        return
    yield ok("provenance", "pictures can be signed" if signature else f"SEEMLY_PROVENANCE={settings.provenance}")


def check_model(deployment: Deployment) -> Findings:
    """Look at the checkpoint and its detector, where they lie on this machine."""
    settings = deployment.worker
    if not deployment.is_worker_here:
        yield skipped("model", "no worker runs here, so there is no model to look at")
        return
    from workers.checkpoint import UnusableModel, check_detector, check_pin

    folder = Path(settings.model)
    if not folder.is_dir():
        yield from _of_hub(settings.model, settings.model_revision)
        return
    try:
        check_detector(folder)
    except UnusableModel as error:
        yield fault("detector", str(error), "take a checkpoint that brings its safety checker in safetensors")
    else:
        yield ok("detector", "the checker has its concepts and their thresholds")
    yield from _chosen_detectors(settings.detectors)
    try:
        found = check_pin(folder, settings.model_sha256)
    except UnusableModel as error:
        yield fault("model", str(error), "fetch the pinned one: seemly models fetch")
        return
    if settings.model_sha256 is None:
        yield warning("model", "its hash is not pinned, so others' weights would be served", _pin(found))
    else:
        yield ok("model", f"{folder} is as pinned")


def _chosen_detectors(chosen: DetectorChoices) -> Findings:
    """Those beside the model's own."""
    for choice in chosen:
        file = getattr(choice, "file", None)
        if file is not None and not file.is_file():
            yield fault(
                "detector", f"{choice.name} has no weights at {file}", "mend SEEMLY_DETECTORS, or put them there"
            )
        elif choice.name == "nudenet" and find_spec("nudenet") is None:
            todo = 'pip install -e ".[detectors]", or take it out of SEEMLY_DETECTORS'
            yield fault("detector", "nudenet is chosen and not installed here", todo)


def _of_hub(model: str, revision: str | None) -> Findings:
    if model.count("/") != 1 or model.startswith((".", "/")):
        yield fault("model", f"SEEMLY_MODEL={model} is no folder here", "fetch it: seemly models fetch")
    elif revision is None:
        todo = "pin SEEMLY_MODEL_REVISION and SEEMLY_MODEL_SHA256, or put it into a folder: seemly models fetch"
        yield warning("model", f"{model} comes from a hub at every start, whatever it is then", todo)
    else:
        yield skipped("model", f"{model} comes from a hub at the start; its files are not looked at here")


def _pin(found: str) -> str:
    return f"SEEMLY_MODEL_SHA256={found}"


def check_announced(deployment: Deployment) -> Findings:
    """Look at what workers have announced, and whether any is ready."""
    redis = deployment.redis
    members = cast("list[str]", redis.zrangebyscore(keys.READY_WORKERS, f"({time.time()}", "+inf"))
    ready = [member.partition("|")[0] for member in members]
    announced = cast("dict[str, str]", redis.hgetall(keys.MODELS))
    if not announced:
        yield fault("workers", "no worker has announced a model yet", "start one and read its log: seemly worker")
    for name, told in sorted(announced.items()):
        try:
            info = ModelInfo.model_validate_json(told)
        except ValidationError:
            todo = "run gateway and workers of the same version"
            yield fault("workers", f"{name} is announced in a form that is not known here", todo)
            continue
        pinned = deployment.worker.model_sha256
        if name == deployment.worker.model_name and pinned is not None and pinned != info.weights_sha256:
            told_of = f"the workers of {name} serve {info.weights_sha256[:12]}…, and {pinned[:12]}… is pinned"
            yield fault("workers", told_of, "set SEEMLY_MODEL_SHA256 for the workers too, and restart them")
        if name == deployment.worker.model_name:
            scoring = {detector.name for detector in info.detectors}
            for missing in sorted({choice.name for choice in deployment.worker.detectors} - scoring):
                told_of = f"{missing} is in SEEMLY_DETECTORS, and the workers of {name} score without it"
                yield fault("detector", told_of, "set SEEMLY_DETECTORS for the workers too, and restart them")
        waiting, count = redis.llen(f"rq:queue:{keys.queue_name(name)}"), ready.count(name)
        if count:
            yield ok("workers", f"{name}: {count} ready, {waiting} jobs waiting")
        elif waiting:
            yield fault("workers", f"{name}: {waiting} jobs wait, and no worker is ready", "start one and read its log")
        else:
            yield warning("workers", f"{name}: no worker is ready", "start one, unless it was scaled to zero")
    wanted = deployment.gateway.default_model
    if announced and wanted is not None and wanted not in announced:
        told_of = f"SEEMLY_DEFAULT_MODEL={wanted} is announced by no worker"
        yield fault("workers", told_of, f"name one of: {', '.join(sorted(announced))}; or start its worker")
    if redis.exists("rq:suspended"):
        yield fault("workers", "workers were told to take no jobs", "let them go on: rq resume")
