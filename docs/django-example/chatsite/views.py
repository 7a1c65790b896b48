from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.http import JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_POST

from . import natter


@login_required
def room(request, room_name):
    """The chat room. Django knows who it is; the token tells Natter."""
    context = {"room_name": room_name, "natter_url": settings.NATTER_URL, "natter_token": natter.token_for(request.user)}
    return render(request, "room.html", context)


@login_required
@require_POST
def greet(request, username):
    """What an application does: something happens, somebody is told."""
    user = get_object_or_404(get_user_model(), username=username)
    return JsonResponse(natter.notify(user, f"{request.user.get_username()} says hello"))
