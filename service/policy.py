"""Policies as files: those that are shipped, and those that an operator writes."""

from pathlib import Path

import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError

from contract.policy import Policy
from contract.wording import wording

SHIPPED = Path(__file__).parent / "policies"


def load_policy(name_or_path: str) -> Policy:
    """Read a shipped policy by its name, or any by its path.

    Raises:
        FileNotFoundError: when there is neither.
        ValueError: when the file is not a policy; the text names what is wrong in it.
    """
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise FileNotFoundError(f"no policy {name_or_path!r}; shipped: {', '.join(shipped)}; or give a file's path")
    try:
        return Policy.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a policy, and not YAML: {str(error).replace(chr(10), ' ')}") from error
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, entry['loc']))} {wording(entry)}".strip() for entry in error.errors())
        raise ValueError(f"{path} is not a policy: {'; '.join(wrong)}") from error
