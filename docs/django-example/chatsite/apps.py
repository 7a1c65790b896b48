from django.apps import AppConfig


class ChatSite(AppConfig):
    name = "chatsite"

    def ready(self):
        from . import signals  # noqa: F401  (to have its receivers in every process)
