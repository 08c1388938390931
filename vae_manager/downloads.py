"""Say what a file is that was meant to be a model and is none: a page, a pointer, an error, another format."""

from __future__ import annotations

import re

_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, which says where the file lies; fetch that one (git lfs pull)"),
    (b"GGUF", "a GGUF file, which holds no VAE that can be read here; get the safetensors version"),
    (b"\x93NUMPY", "an array of numpy's (a latent?), and no model"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x1f\x8b", "packed with gzip; unpack it first"),
    (b"\x89PNG", "a PNG picture under a model's name"),
    (b"\xff\xd8\xff", "a JPEG picture under a model's name"),
    (b"%PDF", "a PDF document under a model's name"),
)  # fmt: skip

_HTML = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype|html|head|body|\?xml)", re.IGNORECASE | re.DOTALL)
_ONNX = re.compile(rb"\x08[\x01-\x20]\x12[\x01-\x40][ -~]{3}")  # version, then who made it
_LETTERS = re.compile(rb"[\t\n\r -~\x80-\xff]+")


def described(start: bytes, size: int) -> str | None:
    """What a file is by its first bytes and its size, with what to do: "it is …"; None where that is not known."""
    if size == 0:
        return "the file is 0 bytes long: an empty or broken download; fetch it again"
    if not start.strip(b"\0"):
        return "it is filled with zeros: its download was begun and broke off; fetch it again"
    text = start.removeprefix(b"\xef\xbb\xbf")
    for magic, what in _STARTS:
        if text.startswith(magic):
            return f"it is {what}"
    if _HTML.match(text[:2000]):
        return (
            "it is a web page (HTML), not a model: the site sent a page, perhaps to sign in, in place of the file; "
            "download it in the browser"
        )
    if text.lstrip()[:1] == b"{" and b'"weight_map"' in text:
        return "it is the index of a model in several files, and no whole VAE; get the version in one file"
    if text.lstrip()[:1] in (b"{", b"[") and _LETTERS.fullmatch(text):
        return (
            "it is a text in JSON, not a model: perhaps an error of the site in place of the file; look into it with "
            "a text editor and fetch the file again"
        )
    if start.startswith((b"PK\3\4", b"\x80\2", b"\x80\4")):
        return "it is a pickle of PyTorch under another name; if you trust its source, rename it to end in .ckpt"
    if _ONNX.match(start):
        return "it is an ONNX model, which holds no VAE that can be read here; get the safetensors version"
    if size < 9:
        return f"the file is {size} bytes long: an empty or broken download; fetch it again"
    if _LETTERS.fullmatch(text) and b"\0" not in text:
        return "it is a text, not a model; fetch the file again"
    return None
