"""Chat templates as tests need them."""

from __future__ import annotations

import re

from tests import tiny

ENDS = (
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>",
    "<turn|>",
    "<|user|>",
    "<|observation|>",
    "<|tool_response>",
    "<|eot|>",
)
"""Tokens that end turns in templates that TRL ships."""
MARKED = tiny.TEMPLATE_PATH.read_text(encoding="utf-8")
UNMARKED = re.sub(r"\{%-? (end)?generation -?%\}", "", MARKED)

PLAIN_CHATML = (  # as SmolLM2-Instruct ships it
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN_CHATML_MARKED = (  # line breaks after blocks only: those are trimmed
    "{% for message in messages %}\n"
    "    {% if loop.first and messages[0]['role'] != 'system' %}\n"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}\n"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}\n"
    "    {% generation %}\n"
    "{{ message['content'] + '<|im_end|>' + '\n' }}{% endgeneration %}\n"  # with the line break, as TRL's have it
    "    {% else %}\n"
    "{{ message['content'] + '<|im_end|>' + '\n' }}{% endif %}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETS_THOUGHTS = (  # as Qwen3: what was thought before the last question is left out
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 < ns.last %}{{ m.content.split('</think>')[-1].lstrip() }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = PLAIN_CHATML.replace(
    "{{'<|im_start|>' + message", "{% if message['role'] != 'system' %}{{'<|im_start|>' + message"
).replace("'\n'}}{% endfor %}", "'\n'}}{% endif %}{% endfor %}")
OPENS_THINKING = PLAIN_CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
JSON_TOOL_RESULTS = PLAIN_CHATML.replace(
    "message['content'] +", "(message['content'] if message['role'] != 'tool' else message['content'] | tojson) +"
)
