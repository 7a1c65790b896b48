"""All that this project knows of Natter: a token for a user, and a call of the server API."""

import json
import time
import urllib.request
import uuid

import jwt
from django.conf import settings

# A page trades its token for a cookie at once, so it need not last.
TOKEN_SECONDS = 300
# Natter's names have so many characters at most; Django's may have more.
NAME_CHARACTERS = 64


def user_id(user):
    """The user's id in Natter: for good, so not the name, which may change."""
    return f"django-{user.pk}"


def names(user):
    """The handle, by which others find the user, and the name that they see. A handle cut short would be another's: none then."""
    handle = user.get_username()
    name = user.get_full_name() or handle
    return handle if len(handle) <= NAME_CHARACTERS else None, name[:NAME_CHARACTERS].strip()


def token_for(user):
    """A token that signs the user in to Natter."""
    handle, name = names(user)
    now = time.time()
    claims = {
        "iss": "natter",
        "aud": "natter",
        "sub": user_id(user),
        # With its fraction: it may follow a signing out in the same second.
        "iat": now,
        "exp": now + TOKEN_SECONDS,
        "preferred_username": handle,
        "name": name,
    }
    return jwt.encode(claims, settings.NATTER_SECRET, algorithm="HS256")


def call(method, path, body, idempotency_key=None):
    """A call of the server API. An HTTP error is raised as urllib.error.HTTPError."""
    request = urllib.request.Request(
        f"{settings.NATTER_API_URL}/api/v1/server{path}",
        method=method,
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {settings.NATTER_API_KEY}",
            "Content-Type": "application/json",
            # Repeated under the same key, a call does nothing twice.
            "Idempotency-Key": idempotency_key or str(uuid.uuid4()),
        },
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or "null")


def notify(user, text):
    """A notification to the user: live where connected, and kept in the inbox."""
    # Natter knows users from their first sign-in on; this makes one known before. It says all that the
    # token says: what is left out here would be taken back.
    handle, name = names(user)
    call("PUT", f"/users/{user_id(user)}", {"handle": handle, "display_name": name})
    return call("POST", "/notifications", {"to": {"user": user_id(user)}, "body": text})


def sign_out(user):
    """Voids the tokens and cookies that the user has, on every device, and closes what is open by them."""
    call("POST", f"/users/{user_id(user)}/revoke", {})


def block(user):
    """Lets the user in no more, and closes what is open."""
    call("POST", f"/users/{user_id(user)}/block", {})


def unblock(user):
    """Lets the user in again."""
    call("POST", f"/users/{user_id(user)}/unblock", {})
