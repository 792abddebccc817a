"""What outlives a job of its prompt: the words, an HMAC of them, or nothing, as the policy says."""

import hashlib
import hmac

from contract.at_rest import PromptAtRest, PromptForm

PURPOSE = "prompts at rest"  # the key is derived from the pepper for it


def prompt_at_rest(form: PromptForm, prompt: str, negative_prompt: str, key: bytes) -> PromptAtRest:
    """A prompt in the form in which it may rest. The same words have the same HMAC, as long as the pepper is kept."""
    if form is PromptForm.DROPPED:
        return PromptAtRest()

    def rest(text: str) -> str | None:
        if not text or form is PromptForm.KEPT:
            return text or None
        return hmac.digest(key, text.encode(), hashlib.sha256).hex()

    return PromptAtRest(form=form, prompt=rest(prompt), negative_prompt=rest(negative_prompt))
