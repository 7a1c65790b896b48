"""What Natter has to hear of Django's users: that one signs out, or is let in no more."""

from django.conf import settings
from django.contrib.auth.signals import user_logged_out
from django.db.models.signals import post_save
from django.dispatch import receiver

from . import natter


@receiver(user_logged_out)
def on_logged_out(user, **_):
    if user is not None:
        natter.sign_out(user)


@receiver(post_save, sender=settings.AUTH_USER_MODEL)
def on_saved(instance, **_):
    if not instance.is_active:
        natter.block(instance)
