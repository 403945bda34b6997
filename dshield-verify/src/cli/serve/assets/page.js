// Counts the age of the verdict on, and takes back what no longer holds. Copies commands. Asks nobody anything.
"use strict";

(() => {
  const body = document.body;
  const bornAt = Date.now();
  const bornSteady = performance.now();
  const begun = Number(body.dataset.ageMs);
  const most = Number(body.dataset.maxAgeMs);
  const age = document.getElementById("age");
  const judged = document.querySelector("#verdict time") !== null;

  // The longer of what two clocks say: one may be set, the other may stop while the machine sleeps.
  const now = () => begun + Math.max(Date.now() - bornAt, performance.now() - bornSteady);

  const inWords = (milliseconds) => {
    const seconds = Math.floor(milliseconds / 1000);
    if (seconds < 120) return `${seconds} s`;
    if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
    return `${Math.floor(seconds / 3600)} h`;
  };

  const count = () => {
    const milliseconds = now();
    if (age) age.textContent = `, ${inWords(milliseconds)} ago`;
    if (!judged || milliseconds < most) return;
    body.classList.remove("fresh");
    const verified = body.classList.replace("verified", "outdated");
    for (const element of document.querySelectorAll("[data-while=old]")) element.hidden = false;
    if (!verified) return;
    for (const element of document.querySelectorAll("[data-while=young]")) element.hidden = true;
    document.title = `Out of date: ${document.title}`;
  };
  count();
  setInterval(count, 1000);

  for (const button of document.querySelectorAll("button.copy")) {
    const code = button.parentElement.querySelector("code");
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        // No clipboard for pages without TLS: select it, for the reader to copy.
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
