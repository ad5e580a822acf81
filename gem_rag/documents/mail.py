"""Mail messages as text."""

from __future__ import annotations

import email
from email.message import EmailMessage, MIMEPart
from email.policy import default
from pathlib import Path

from gem_rag.documents.decode import decode
from gem_rag.documents.document import Document
from gem_rag.documents.html import markdown_of
from gem_rag.errors import DocumentError

SHOWN = ("Subject", "From", "To", "Cc", "Date")


def read_mail(path: Path) -> Document:
    """EML: who wrote what to whom, and when; attachments are named, not read."""
    message = email.message_from_bytes(path.read_bytes(), policy=default)
    head = [f"{name}: {message[name]}" for name in SHOWN if message[name]]
    if not head:
        raise DocumentError(f"{path} is no mail message: it has neither a subject nor a sender")
    part = message.get_body(("plain", "html"))
    is_html = part is not None and part.get_content_type() == "text/html"
    body = _content(part) if part is not None else ""
    if is_html:
        body, _ = markdown_of(body)
    names = [str(a.get_filename() or a.get_content_type()) for a in _attachments(message)]
    if names:
        head.append(f"Attachments: {', '.join(names)}")
    notes = (f"attachments are not read: {', '.join(names)}",) if names else ()
    text = "\n".join(head) + "\n\n" + body.strip().replace("\r\n", "\n")
    subject = str(message["Subject"] or "")
    return Document(text, str(path), markdown=is_html, title=subject, notes=notes)


def _attachments(message: EmailMessage) -> list[MIMEPart]:
    return list(message.iter_attachments()) if message.is_multipart() else []


def _content(part: MIMEPart) -> str:
    try:
        return str(part.get_content())
    except (LookupError, UnicodeError):  # an encoding of no such name
        data = part.get_payload(decode=True)
        return decode(data).text if isinstance(data, bytes) else ""
