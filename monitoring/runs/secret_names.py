"""Names of environment variables and configuration keys that hold secrets."""

from __future__ import annotations

import re

_ANYWHERE = re.compile(
    r"TOKEN(?!IZ|S(?:_|$))|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE", re.I
)
_AT_THE_END = re.compile(r"(?:KEY|(?:^|_)PAT|(?<!BY)PASS)$", re.I)

_SECRETS = re.compile(
    r"password|passwords|passwd|passphrase|secret|secrets|credential|credentials|"
    r"apikey|accesskey|privatekey|secretkey|authtoken"
)
_KEYS = re.compile(
    r"api|access|private|secret|auth|encryption|signing|ssh|deploy|account|license|"
    r"wandb|openai|anthropic|hf|huggingface|comet|neptune|aws|azure|gcp|s3"
)
_PASSES = re.compile(
    r"db|database|user|smtp|mail|email|ftp|ssh|redis|mongo|postgres|mysql|admin|root|proxy"
)
_ACCESS_TOKENS = re.compile(r"gh|github|gitlab|azure|git")
# Names of a tokenizer's tokens, and quantities per token.
_WORDS_OF_TEXT = re.compile(
    r"bos|eos|sos|eot|pad|unk|sep|cls|mask|start|end|stop|begin|special|image|audio|video|text|"
    r"prefix|suffix|middle|fim|first|last|next|per|each|new|prompt|boundary|separator|"
    r"trigger|instance|placeholder|class|additional|extra"
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def is_secret_variable(name: str) -> bool:
    """Whether an environment variable with this name holds a secret."""
    return bool(_ANYWHERE.search(name) or _AT_THE_END.search(name))


def is_secret_name(name: str) -> bool:
    """Whether a key or an option with this name holds a secret.

    Stricter than for the environment: `sort_key`, `key_dim`, `pad_token`, `max_tokens` and
    `forward_pass` are ordinary names in a configuration; `WANDB_KEY`, in capitals, is not.
    """
    words = _HUMP.sub("_", re.split(r"[./]", name)[-1].strip("-")).replace("-", "_").split("_")
    *_, before, last = ["", "", *filter(None, words)]
    loud, before, last = last.isupper(), before.lower(), last.lower()
    if _SECRETS.fullmatch(last):
        return True
    if last == "token":
        return not _WORDS_OF_TEXT.fullmatch(before)
    if last in ("key", "pat", "pass"):
        usual = {"key": _KEYS, "pat": _ACCESS_TOKENS, "pass": _PASSES}[last]
        return bool(usual.fullmatch(before) or (loud and before))
    return False
