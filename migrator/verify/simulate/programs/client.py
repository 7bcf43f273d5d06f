# SPDX-License-Identifier: Apache-2.0
"""Asks a running `vllm serve` through the OpenAI client and writes the answers.

    python client.py JOB.json

For each conversation of the job: one answer in a piece, one streamed, and all streamed at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import openai  # type: ignore[import-not-found]


def request(job: dict[str, Any], messages: list[dict[str, str]]) -> dict[str, Any]:
    """The arguments of a greedy request."""
    return {
        "model": job["served"],
        "messages": messages,
        "temperature": 0,
        "max_tokens": job["new_tokens"],
        "extra_body": {"ignore_eos": True},
    }


async def streamed(
    client: Any, job: dict[str, Any], messages: list[dict[str, str]]
) -> dict[str, Any]:
    """A streamed answer: its text, the number of its pieces, why it ended, its token counts."""
    stream = await client.chat.completions.create(
        **request(job, messages), stream=True, stream_options={"include_usage": True}
    )
    pieces: list[str] = []
    reason, usage = None, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.delta.content:
                pieces.append(choice.delta.content)
            reason = choice.finish_reason or reason
    return {
        "text": "".join(pieces),
        "pieces": len(pieces),
        "reason": reason,
        "prompt_tokens": usage and usage.prompt_tokens,
        "new_tokens": usage and usage.completion_tokens,
    }


async def ask(job: dict[str, Any]) -> dict[str, Any]:
    """All answers."""
    async with openai.AsyncOpenAI(
        base_url=job["url"], api_key="none", timeout=job["timeout"], max_retries=0
    ) as client:
        models = [model.id async for model in client.models.list()]
        answers = []
        for messages in job["chats"]:
            whole = await client.chat.completions.create(**request(job, messages))
            choice = whole.choices[0]
            answers.append(
                {
                    "text": choice.message.content,
                    "reason": choice.finish_reason,
                    "prompt_tokens": whole.usage.prompt_tokens,
                    "new_tokens": whole.usage.completion_tokens,
                }
            )
        streams = [await streamed(client, job, messages) for messages in job["chats"]]
        together = await asyncio.gather(
            *(streamed(client, job, messages) for messages in [*job["chats"], *job["chats"]])
        )
        refused = None
        try:
            await client.chat.completions.create(**{**request(job, job["chats"][0]), "model": "?"})
        except openai.NotFoundError as error:
            refused = error.status_code
    return {
        "models": models,
        "answers": answers,
        "streams": streams,
        "together": list(together),
        "refused": refused,
    }


def main(job: dict[str, Any]) -> None:
    """Write the answers to the file that the job names."""
    Path(job["out"]).write_text(json.dumps(asyncio.run(ask(job))), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
