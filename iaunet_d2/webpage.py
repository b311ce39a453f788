"""HTML pages that need no other file."""

import base64
import html


def document(title: str, body: str, style: str) -> str:
    """A whole page.

    Args:
        title: as plain text.
        body: HTML.
        style: CSS.
    """
    head = (
        f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def data_uri(kind: str, content: bytes) -> str:
    """A file inside an address, for ``src``.

    Args:
        kind: of image, such as "png".
        content: of the file.
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
