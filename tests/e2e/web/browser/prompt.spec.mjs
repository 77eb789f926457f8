// SPDX-License-Identifier: Apache-2.0
// Model and prompt: tokens, next tokens and logit differences are those that the Python client computes.
import { expect, python, shown, test } from "./fixtures.mjs";

const CLEAN = "Then, Alice and Emma went to the restaurant. Emma gave a basket to";
const CORRUPT = "Then, Alice and Emma went to the restaurant. Alice gave a basket to";
const OTHER = "Then, Alice and Emma went to the restaurant. Emma gave";

const open = (page, params = {}) =>
  page.goto(`/#/prompt?${new URLSearchParams({ clean: CLEAN, corrupt: CORRUPT, ...params })}`);

test("tokens, next tokens and logit differences are the Python client's", async ({ page, daemon }) => {
  const expected = await python(daemon, `
import json, ablate, numpy as np
client = ablate.connect(arrays="numpy")
model = client.load_model("tiny-ioi", "tl", progress=False)
logits = [model(prompt)[0] for prompt in (${JSON.stringify(CLEAN)}, ${JSON.stringify(CORRUPT)})]
log = logits[0] - np.log(np.exp(logits[0]).sum(-1, keepdims=True))
right, wrong = (model.to_single_token(name) for name in (" Alice", " Emma"))
best = int(log[-1].argmax())
print(json.dumps({
    "tokens": model.to_str_tokens(${JSON.stringify(CLEAN)}), "top": model.to_single_str_token(best),
    "share": float(np.exp(log[-1, best])), "earlier": model.to_single_str_token(int(log[4].argmax())),
    "differences": [[float(row[right] - row[wrong]) for row in one] for one in logits]}))
`);
  await open(page);
  const strip = page.getByRole("group", { name: "Tokens of the clean prompt" }).getByRole("button");
  await expect(strip).toHaveCount(expected.tokens.length);
  expect((await strip.locator(".mono").allInnerTexts()).map((text) => text.replace("·", " "))).toEqual(expected.tokens);

  const next = page.getByRole("region", { name: "Next token" }).locator("tbody");
  const likeliest = (text) => next.getByRole("row").filter({ hasText: text.trim() }).getByRole("cell");
  await expect(likeliest(expected.top).first()).toHaveText(`${(expected.share * 100).toFixed(1)} %`);

  const last = expected.tokens.length - 1;
  const difference = page.getByRole("region", { name: "Logit difference by position" });
  const says = (position) => `At position ${position}: clean ${shown(expected.differences[0][position])}, ` +
    `corrupt ${shown(expected.differences[1][position])}.`;
  await expect(difference).toContainText(says(last));
  await strip.nth(4).click();
  await expect(difference).toContainText(says(4));
  await expect(likeliest(expected.earlier)).not.toHaveCount(0);
  await expect(strip.nth(4)).toHaveAttribute("aria-pressed", "true");
});

test("the second prompt's differing token is marked, and unequal lengths are said", async ({ page, daemon }) => {
  await open(page);
  const strips = ["clean", "corrupt"].map((name) => page.getByRole("group", { name: `Tokens of the ${name} prompt` }));
  for (const strip of strips) await expect(strip.getByTitle(/differs from the other prompt/)).toHaveCount(1);
  await page.getByRole("textbox", { name: "Corrupt prompt" }).fill(OTHER);
  const counts = await Promise.all([CLEAN, OTHER].map(async (value) =>
    (await daemon.api.models.toStrTokens({ modelId: daemon.model.modelId, input: { case: "text", value } })).ids.length));
  await expect(page.getByText(`The prompts have ${counts[0]} and ${counts[1]} tokens.`)).toBeVisible();
  await expect(page).toHaveURL(/corrupt=Then.*Emma\+gave(&|$)/);
});

test("an answer of two tokens is a sentence, not a number", async ({ page }) => {
  await open(page);
  const difference = page.getByRole("region", { name: "Logit difference by position" });
  await expect(difference.getByRole("img")).toBeVisible();
  await difference.getByLabel("Answer", { exact: true }).fill(" Alice went");
  await expect(difference.getByRole("alert")).toContainText("' Alice went' is 2 tokens of this model");
  await expect(difference.getByRole("img")).toHaveCount(0);
  await difference.getByLabel("Answer", { exact: true }).fill(" Emma");
  await expect(difference).toContainText(/clean 0, corrupt 0/);
});

test("a prompt that is too long is refused in words, and its numbers go", async ({ page }) => {
  await open(page);
  await expect(page.getByRole("region", { name: "Next token" })).toBeVisible();
  await page.getByRole("textbox", { name: "Clean prompt" }).fill("gave a basket to ".repeat(40));
  await expect(page.getByRole("region", { name: "Prompts" }).getByRole("alert")).toContainText(/64/);
  await expect(page.getByRole("region", { name: "Next token" })).toHaveCount(0);
});
