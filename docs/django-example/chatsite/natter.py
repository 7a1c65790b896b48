"""All that this project knows of Natter: a token for a user, and a call of the server API."""

import json
import time
import urllib.request
import uuid

import jwt
from django.conf import settings

# A page trades its token for a cookie at once, so it need not last.
TOKEN_SECONDS = 300


def user_id(user):
    """The user's id in Natter: for good, so not the name, which may change."""
    return f"django-{user.pk}"


def token_for(user):
    """A token that signs the user in to Natter."""
    claims = {
        "iss": "natter",
        "aud": "natter",
        "sub": user_id(user),
        "iat": int(time.time()),
        "exp": int(time.time()) + TOKEN_SECONDS,
        "preferred_username": user.get_username(),
        "name": user.get_full_name() or user.get_username(),
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
    # Natter knows users from their first sign-in on; this makes one known before.
    call("PUT", f"/users/{user_id(user)}", {"handle": user.get_username()})
    return call("POST", "/notifications", {"to": {"user": user_id(user)}, "body": text})
