"""What Natter has to hear of Django's users: that one signs out, is let in no more, or again."""

from copy import copy

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_out
from django.db import transaction
from django.db.models.signals import post_delete, post_save, pre_save
from django.dispatch import receiver

from . import natter


@receiver(user_logged_out)
def on_logged_out(user, **_):
    if user is not None:
        natter.sign_out(user)


# Of any sender: a user is also saved and deleted through proxies and children of the user model.
@receiver(pre_save)
def before_saved(instance, **_):
    if not isinstance(instance, get_user_model()):
        return
    stored = get_user_model()._base_manager.filter(pk=instance.pk)
    instance.was_active = stored.values_list("is_active", flat=True).first()


@receiver(post_save)
def on_saved(instance, created, raw, update_fields, **_):
    if not isinstance(instance, get_user_model()):
        return
    is_saved = update_fields is None or "is_active" in update_fields
    # Who is new, and waits for a mail to confirm, has never been let in.
    if is_saved and not created and not raw and instance.is_active != instance.was_active:
        after_commit(natter.unblock if instance.is_active else natter.block, instance)


@receiver(post_delete)
def on_deleted(instance, **_):
    if isinstance(instance, get_user_model()):
        after_commit(natter.block, instance)


def after_commit(tell, user):
    # A copy: Django takes the key from who is deleted.
    user = copy(user)
    transaction.on_commit(lambda: tell(user))
