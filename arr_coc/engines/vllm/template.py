"""The chat template of the reference model in an engine."""

CHAT_TEMPLATE = (
    "<bos> {% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<img>{% elif part['type'] == 'text' %}"
    "{{ ' ' + part['text'] }}{{ '' if part['text'].rstrip().endswith('?') else ' ?' }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}"
)
"""What the processor writes around a question; in the engine nobody else does."""
