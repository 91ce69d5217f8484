"""Chat templates of many styles, written for these tests."""
# ruff: noqa: E501 - templates are easier to read with their own lines

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}" + CHATML
)
INSTRUCTION = """{{ bos_token }}{%- for message in messages %}
{%- if message['role'] == 'system' %}
{{- message['content'] + '\n\n' }}
{%- elif message['role'] == 'user' %}
{{- '### Instruction:\n' + message['content'] + '\n\n' }}
{%- else %}
{{- '### Response:\n' + message['content'] + eos_token + '\n\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '### Response:\n' }}{% endif %}"""
VICUNA = (
    "{% set ns = namespace(system='A chat.') %}"
    "{% for m in messages if m.role == 'system' %}{% set ns.system = m.content %}{% endfor %}"
    "{{ bos_token }}{{ ns.system }}"
    "{% for m in messages if m.role != 'system' %}"
    "{% if m.role == 'user' %}{{ ' USER: ' + m.content }}{% else %}{{ ' ASSISTANT: ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
SYSTEM_IN_FIRST_USER = """{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}
{% set rest = messages[1:] %}{% else %}{% set system = false %}{% set rest = messages %}{% endif %}
{% for message in rest %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate!') }}{% endif %}
{% if message['role'] == 'user' %}{% if loop.first and system %}
{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}{% else %}
{% set content = message['content'] %}{% endif %}{{ bos_token + '[INST] ' + content + ' [/INST]' }}
{%- else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}
{%- endfor %}"""
SYSTEM_IN_LAST_USER = (
    "{{ bos_token }}{% set users = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if m == users[-1] and messages[0].role == 'system' %}{{ '[INST]' + messages[0].content + '\n\n' + m.content + '[/INST]' }}"
    "{% else %}{{ '[INST]' + m.content + '[/INST]' }}{% endif %}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
REASONER = (
    "{{ bos_token }}{% set ns = namespace(system='') %}"
    "{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = ns.system ~ m.content %}{% endif %}{% endfor %}"
    "{{ ns.system }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% endif %}"
    "{% if m.role == 'assistant' %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
MACROS = (
    "{% macro turn(role, text) %}<|{{ role }}|>{{ text }}<|end|>{% endmacro %}"
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.last %}{% set ns.last = messages|length - loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% for m in messages %}{{ turn(m.role, m.content) }}{% if loop.index == ns.last %}<|turn|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DATED = (
    "{% set today = strftime_now('%d %B %Y') %}<|start|>system<|sep|>Today is {{ today }} ({{ strftime_now('%Y-%m-%d') }})."
    "{% if messages[0].role == 'system' %}{{ '\n' + messages[0].content }}{% set messages = messages[1:] %}{% endif %}<|eot|>"
    "{% for m in messages %}<|start|>{{ m.role }}<|sep|>{{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|sep|>{% endif %}"
)
PARTS = (
    "{% for m in messages %}{{ m.role | capitalize }}: {% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}<end>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
BRACES = (
    "{% for m in messages %}{{ '{{' + m.role + '}} {' }}{{ m.content }}{{ '}{' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '{{assistant}} {' }}{% endif %}"
)
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<a>{% generation %}{{ m.content }}</a>{% endgeneration %}"
    "{% else %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
_TURNS = (
    "{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SYSTEM = "{% if messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content | trim + '<|im_end|>\n' }}{% endif %}"
LLAMA_SERVER_DIFFERS = {
    "ignores system": "<|im_start|>system\nYou are kind.<|im_end|>\n" + _TURNS,
    "looks for images": (
        "{% set ns = namespace(images=false) %}{% for m in messages %}{% for part in m.content %}"
        "{% if part['type'] == 'image' %}{% set ns.images = true %}{% endif %}{% endfor %}{% endfor %}"
    )
    + _SYSTEM
    + _TURNS.replace(
        "+ m.content +",
        "+ (m.content if m.content is string else m.content | map(attribute='text') | join) +",
    ),
    "selects by a test": (
        "{% for m in messages | selectattr('tool_calls', 'undefined') %}"
        "{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"
    )
    + _SYSTEM
    + _TURNS,
}
"""llama-server renders these differently. Phi-4-reasoning, Llama 3.2 Vision and Mistral Nemo have such templates."""
PLAIN = {
    "chatml": CHATML,
    "default system": CHATML_DEFAULT_SYSTEM,
    "instruction": INSTRUCTION,
    "vicuna": VICUNA,
    "system in first user": SYSTEM_IN_FIRST_USER,
    "system in last user": SYSTEM_IN_LAST_USER,
    "no system": NO_SYSTEM,
    "reasoner": REASONER,
    "macros": MACROS,
    "dated": DATED,
    "parts": PARTS,
    "braces": BRACES,
    "generation": GENERATION,
}

TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- '# Tools\n<tools>' }}
    {%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\n</tools>\nCall them in <tool_call></tool_call>.<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- if m.reasoning_content and loop.index0 > ns.last %}
            {{- '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}
        {%- endif %}
        {{- m.content }}
        {%- for call in m.tool_calls or [] %}
            {%- if (loop.first and m.content) or not loop.first %}{{- '\n' }}{%- endif %}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}
        {%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""
TOOLS_IN_USER = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- '<|h|>system<|/h|>' + messages[0].content + '<|e|>' }}
{%- set messages = messages[1:] %}{%- endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{- '<|h|>user<|/h|>' }}
{%- if loop.first and tools %}{%- for t in tools %}{{- t.function | tojson(indent=2) }}{{- '\n\n' }}{%- endfor %}{%- endif %}
{{- m.content + '<|e|>' }}
{%- elif m.tool_calls %}
{%- if m.tool_calls | length > 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
{{- '<|h|>assistant<|/h|>{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' }}
{{- m.tool_calls[0].function.arguments | tojson }}{{- '}<|e|>' }}
{%- elif m.role == 'tool' %}{{- '<|h|>ipython<|/h|>' }}{{- m.content | tojson }}{{- '<|e|>' }}
{%- else %}{{- '<|h|>assistant<|/h|>' + m.content + '<|e|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|h|>assistant<|/h|>' }}{%- endif %}"""
TOOLS_WITH_IDS = """{{- bos_token }}{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools and m == users[-1] %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{{- '[INST]' + m.content + '[/INST]' }}
{%- elif m.tool_calls %}{{- '[TOOL_CALLS][' }}
{%- for c in m.tool_calls %}{%- if c.id | length != 9 %}{{- raise_exception('ids') }}{%- endif %}
{{- {'name': c.function.name, 'arguments': c.function.arguments, 'id': c.id} | tojson }}
{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- ']' + eos_token }}
{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS]{"call_id": "' + m.tool_call_id + '", "content": ' + m.content + '}[/TOOL_RESULTS]' }}
{%- elif m.role == 'assistant' %}{{- m.content + eos_token }}{%- endif %}
{%- endfor %}"""
TEXT_ARGUMENTS = (
    "{% if tools %}<|tools|>{{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "{{ '<|call|>' + c['function']['name'] + '\n' + c['function']['arguments'] + '<|/call|>' }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALLING = {
    "tools": TOOLS,
    "tools in user": TOOLS_IN_USER,
    "ids": TOOLS_WITH_IDS,
    "text arguments": TEXT_ARGUMENTS,
}
XML_CALLS = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call={{ c.function.name }}>{% for k, v in c.function.arguments.items() %}"
    "<{{ k }}>{{ v }}</{{ k }}>{% endfor %}</call>{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOGGLED = (
    "{% set think = enable_thinking if enable_thinking is defined else true %}"
    "{% for m in messages %}<|{{ m.role }}|>{% if loop.first and m.role == 'system' %}{{ '/think ' if think else '/no_think ' }}"
    "{% endif %}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ '<think>' if think else '<think></think>' }}{% endif %}"
)
EMPTY_THOUGHTS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n' }}{% else %}<think></think>{% endif %}"
    "{% endif %}{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OTHER_CALLS = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ {'tool': c.function.name, 'args': c.function.arguments} | tojson }}</call>"
    "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
