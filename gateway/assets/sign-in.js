// The sign-in page: a name for a cookie, then on to where the user was going.

const form = document.getElementById("sign-in-form");
const error = document.getElementById("sign-in-error");

function complain(text) {
  error.textContent = text;
  error.hidden = false;
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  error.hidden = true;
  const name = form.elements.name.value.trim();
  try {
    const response = await fetch("/api/v1/dev/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name }),
    });
    if (response.ok) {
      location.assign(document.body.dataset.next);
    } else {
      const problem = await response.json().catch(() => ({}));
      complain(problem.detail ?? `That did not work (${response.status}).`);
    }
  } catch {
    complain("The server cannot be reached.");
  }
});
