"""What the gateway's tests stand on: a model announced as workers do it, and a worker's own writes to the record."""

import hashlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis import Redis
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from contract import keys, record
from contract.audit import words_of
from contract.detail import ScoreDetail, telling_of
from contract.erasure import Lab
from contract.filter import Action
from contract.job import Job, PolicyRef, picture_key
from contract.model import ModelInfo, VariantInfo
from contract.plan import SafetyPlan
from contract.request import OutputFormat, Scheduler
from contract.result import AppliedSafety, Picture, Result, Status
from contract.verdict import ConceptScore, Verdict
from workers.evidence import verdicts_of
from workers.policies import PolicyReader, UnknownPolicy

MODEL = "demo"
PNG = b"\x89PNG\r\n\x1a\nnot really a picture, but bytes that can be told apart"


def clip_like_tokenizer() -> Tokenizer:
    """One token a character, in CLIP's normalisation and between CLIP's marks."""
    alphabet = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", "<unknown>", *alphabet, *(f"{char}</w>" for char in alphabet)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: index for index, word in enumerate(words)},
            merges=[],
            unk_token="<unknown>",  # noqa: S106 - a token, no secret
            end_of_word_suffix="</w>",
        )
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $0 <|endoftext|>",
        special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)],
    )
    tokenizer.enable_truncation(max_length=77)  # as checkpoints ship it: the gateway must not be taken in
    return tokenizer


TOKENIZER = clip_like_tokenizer().to_str().encode()


VARIANT = VariantInfo(
    name="sdd-weapons", recipe="sdd", concepts=("weapon",), changes="attn2_only", weights_sha256="0" * 64
)


def model_info(**changes: Any) -> ModelInfo:
    return ModelInfo(
        **{
            "name": MODEL,
            "source": "models/demo",
            "weights_sha256": "0" * 64,
            "default_steps": 25,
            "default_guidance_scale": 7.5,
            "native_width_px": 64,
            "native_height_px": 64,
            "min_size_px": 32,
            "max_size_px": 128,
            "size_multiple_px": 8,
            "max_tokens": 77,
            "tokenizer_sha256": hashlib.sha256(TOKENIZER).hexdigest(),
            "schedulers": (Scheduler.DDIM, Scheduler.EULER),
            "methods": ("safree", "erased", "negative", "sld", "unguidance", "filter"),
            "actions": (Action.ANNOTATE, Action.BLOCK),
            "concepts": ("weapon",),
            "default_concepts": ("weapons",),
            "scores_text_concepts": True,
            "variants": (VARIANT,),
            **changes,
        }
    )


def client(url: str) -> "Redis":
    return Redis.from_url(url, decode_responses=True, protocol=2)


def announce(redis: "Redis", info: ModelInfo | None = None) -> None:
    info = info or model_info()
    redis.hset(keys.MODELS, info.name, info.model_dump_json())
    redis.hset(keys.LABS, info.name, Lab(model=info.name, weights_sha256=info.weights_sha256).model_dump_json())
    redis.set(keys.tokenizer_key(hashlib.sha256(TOKENIZER).hexdigest()), TOKENIZER)


def announce_worker(redis: "Redis", lease_s: float = 60) -> None:
    redis.zadd(keys.READY_WORKERS, {f"{MODEL}|worker-1": time.time() + lease_s})


def redis_keys(redis: "Redis") -> set[str]:
    """Every key but the gateway's own passing ones."""
    found = {key if isinstance(key, str) else key.decode() for key in redis.keys("*")}
    return {
        key
        for key in found
        if not key.startswith(f"{keys.PREFIX}bell:") and key not in (keys.POLICIES, keys.OWN_POLICY)
    }


def redis_contents(url: str) -> dict[bytes, bytes]:
    """Everything that lies in Redis, by key, as text to search in."""
    with Redis.from_url(url, protocol=2) as raw:
        read: dict[bytes, Callable[[bytes], Any]] = {
            b"hash": raw.hgetall,
            b"list": lambda key: raw.lrange(key, 0, -1),
            b"set": raw.smembers,
            b"zset": lambda key: raw.zrange(key, 0, -1),
            b"stream": raw.xrange,
            b"string": raw.get,
        }
        kinds = {key: raw.type(key) for key in raw.keys("*")}  # "none": it has gone since
        return {key: repr(read[kind](key)).encode() for key, kind in kinds.items() if kind != b"none"}


def _touched(job_id: str) -> list[str]:
    return [keys.job_key(job_id), keys.ACCEPTED, keys.events_key(job_id)]


def take(redis: "Redis", job_id: str) -> tuple[int, Job]:
    """A worker takes the job: from RQ's list, and by START."""
    redis.lrem(f"rq:queue:{keys.queue_name(MODEL)}", 1, job_id)
    attempt, job, *_ = redis.eval(record.START, 3, *_touched(job_id), repr(time.time()))
    assert attempt, job
    return attempt, Job.model_validate_json(job)


def report_progress(redis: "Redis", job_id: str, step: int, steps: int) -> str:
    fields: dict[Any, Any] = {"type": "progress", "data": json.dumps({"step": step, "steps": steps})}
    return str(redis.xadd(keys.events_key(job_id), fields))


def commit(redis: "Redis", job_id: str, attempt: int, result: Result) -> None:
    job = Job.model_validate_json(str(redis.hget(keys.job_key(job_id), "job")))
    try:
        detail = PolicyReader(redis, SafetyPlan()).in_force(job).policy.scores
    except UnknownPolicy:  # accepted without a gateway
        detail = ScoreDetail.FULL
    arguments = [attempt, result.status.value, result.model_dump_json(), repr(time.time()), 3600]
    arguments.append(telling_of(result, detail))
    if (verdicts := verdicts_of(job, attempt, result)) is not None:
        arguments += words_of(verdicts)
    assert redis.eval(record.COMMIT, 3, *_touched(job_id), *arguments) == 1


def score(value: float = 0.1, threshold: float = 0.2, **changes: Any) -> ConceptScore:
    margin = round(value - threshold, 3)
    return ConceptScore(
        **{
            "name": "weapon",
            "category": "custom",
            "detector": "clip-concepts",
            "detector_version": "1",
            "score": value,
            "threshold": threshold,
            "margin": margin,
            "flagged": margin > 0,
            **changes,
        }
    )


def picture(job: Job, index: int, verdict: Verdict = Verdict.PASSED, **changes: Any) -> Picture:
    return Picture(
        **{
            "index": index,
            "seed": job.seeds[index],
            "verdict": verdict,
            "sha256": hashlib.sha256(PNG).hexdigest() if verdict is Verdict.PASSED else None,
            "width": job.width,
            "height": job.height,
            "concepts": (score(),),
            **changes,
        }
    )


def store_picture(folder: Path, job: Job, attempt: int, index: int, content: bytes = PNG) -> Path:
    path = folder / picture_key(job.id, job.tenant, attempt, index, job.output_format)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def result(job: Job, status: Status, *pictures: Picture) -> Result:
    safety = AppliedSafety(
        requested=job.requested,
        applied=job.plan.model_dump(mode="json"),
        policy=job.policy,
        weights_sha256="0" * 64,
        model=job.model,
    )
    return Result(status=status, safety=safety, images=pictures)


def some_job(**changes: Any) -> Job:
    return Job(
        **{
            "id": "0" * 32,
            "tenant": "local",
            "created_at": datetime.now(UTC),
            "deadline_at": None,
            "model": MODEL,
            "prompt": "a midnight harbour",
            "negative_prompt": "",
            "seeds": (41,),
            "width": 64,
            "height": 64,
            "steps": 25,
            "guidance_scale": 7.5,
            "scheduler": Scheduler.DDIM,
            "output_format": OutputFormat.PNG,
            "requested": "filter",
            "plan": SafetyPlan.from_short_form("filter"),
            "policy": PolicyRef(id="default", version=1),
            **changes,
        }
    )
