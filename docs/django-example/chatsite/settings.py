"""A small Django project beside Natter. Settings that differ from Django's own say why."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "for trying things out only")
DEBUG = os.environ.get("DJANGO_DEBUG", "1") == "1"
# The hosts that browsers ask for; another one is HTTP 400.
ALLOWED_HOSTS = os.environ.get("DJANGO_HOSTS", "127.0.0.1,localhost").split(",")
ROOT_URLCONF = "chatsite.urls"

# Where browsers find Natter; behind one host, that host.
NATTER_URL = os.environ.get("CHAT_URL", "http://127.0.0.1:8080")
# Where this server finds it: in a cluster any gateway, or what balances them.
NATTER_API_URL = os.environ.get("CHAT_API_URL", NATTER_URL)
# The secret that Natter was started with (NATTER_AUTH__SECRET); signs the users' tokens.
NATTER_SECRET = os.environ.get("CHAT_SECRET", "")
# Made by `natter apikey create`; for what this server does in Natter on its own account.
NATTER_API_KEY = os.environ.get("CHAT_API_KEY", "")

# Natter's CSRF cookie is called `csrftoken`, as Django's is by default. Where the two share a host,
# one of them has to give way.
CSRF_COOKIE_NAME = "django_csrftoken"

INSTALLED_APPS = [
    "chatsite",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "chatsite" / "templates"],
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
            ]
        },
    }
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DJANGO_DB", BASE_DIR / "db.sqlite3")}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_REDIRECT_URL = "/room/lobby/"
LOGOUT_REDIRECT_URL = "/accounts/login/"
USE_TZ = True
