"""What a URL of a folder or an object store must not hold, wherever one is given."""

from __future__ import annotations


def fault_of(place: str) -> tuple[str, str] | None:
    """Why `place` cannot be taken, as a code and in words that do not repeat it; `None` where it can.

    A secret may have slashes in it, so that an `@` after the first of them is no less a sign of one. Paths, and URLs of
    local files, may have any name.
    """
    scheme, separator, rest = place.partition("://")
    if not separator or scheme.lower() == "file":
        return None
    if "@" in rest:
        why = "a URL must not hold an '@', which a user's name or a password may stand before"
        return "credentials_in_url", f"{why}; give those as storage_options or in the environment"
    if "?" in rest or "#" in rest:
        return "options_in_url", "a URL must end with the prefix; give what follows '?' or '#' as storage_options"
    return None
