"""The exact length of a prompt, asked of the model's own server where the bound by bytes does not fit into what is left.

Invariant: never below what the model counts: the server's own count of the prompt as its template renders it, plus the allowance for
what is added to a message. Where the server does not say, or a prompt has images or comes as token numbers, the bound by bytes
stands. Sources: llama.cpp's /apply-template and /tokenize, vLLM's and SGLang's /tokenize, all at the server's root.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any, Final

from quota.gateway.dialects import Endpoint
from quota.gateway.model_request import ModelRequest
from quota.gateway.models import Tokenizer
from quota.service.upstreams import Target, UpstreamError, Upstreams, ask

_DEADLINE_S: Final = 5.0
_ANSWER_BYTES_MAX: Final = 16 * 2**20


async def counted(request: ModelRequest, upstreams: Upstreams) -> ModelRequest:
    """The request with a tighter bound, where its server can tell one; else as it is."""
    how, server = request.model.tokenizer, request.model.least_busy()
    if how is Tokenizer.NONE or server is None or request.image_bytes or request.prompts != 1:
        return request
    fields: dict[str, Any] = json.loads(request.encoded + b"}")
    root = replace(server.target, url=server.target.url.removesuffix("/v1"))
    try:
        async with asyncio.timeout(_DEADLINE_S):
            tokens = await (_llama_cpp if how is Tokenizer.LLAMA_CPP else _vllm)(request, fields, root, upstreams)
    except (TimeoutError, UpstreamError, ValueError, KeyError, TypeError):
        return request
    if tokens is None:
        return request
    return replace(request, prompt_bound=min(request.prompt_bound, tokens + request.model.limits.message_tokens))


async def _llama_cpp(request: ModelRequest, fields: dict[str, Any], root: Target, upstreams: Upstreams) -> int | None:
    if request.endpoint is Endpoint.CHAT:
        kept: dict[str, Any] = {
            name: fields[name] for name in ("messages", "tools", "chat_template_kwargs") if name in fields
        }
        text = (await _asked(root, "/apply-template", kept, upstreams))["prompt"]
    elif request.endpoint is Endpoint.COMPLETIONS:
        text = fields["prompt"]
    else:
        return None
    if not isinstance(text, str):
        return None
    asked = {"content": text, "add_special": True, "parse_special": True}
    return len((await _asked(root, "/tokenize", asked, upstreams))["tokens"])


async def _vllm(request: ModelRequest, fields: dict[str, Any], root: Target, upstreams: Upstreams) -> int | None:
    if request.endpoint not in (Endpoint.CHAT, Endpoint.COMPLETIONS):
        return None
    names = ("model", "messages", "tools", "chat_template_kwargs", "prompt")
    found = await _asked(root, "/tokenize", {name: fields[name] for name in names if name in fields}, upstreams)
    count = found["count"]
    return count if type(count) is int and count >= 0 else None


async def _asked(root: Target, path: str, body: dict[str, Any], upstreams: Upstreams) -> dict[str, Any]:
    """A JSON answer. Raises UpstreamError, ValueError, TypeError."""
    answer = await ask(upstreams, root, path, json.dumps(body, ensure_ascii=False).encode())
    try:
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        found = json.loads(await answer.read(_ANSWER_BYTES_MAX))
    finally:
        answer.close()
    if not isinstance(found, dict):
        raise TypeError("no object")
    return found
