// SPDX-License-Identifier: Apache-2.0
import { render } from "preact";
import { App } from "./app.js";
import { keepAsking } from "./lib/connection.js";
import { followHash } from "./lib/route.js";
import { applyTheme } from "./lib/theme.js";
import "./style.css";

applyTheme();
followHash();
void keepAsking(new AbortController().signal);
render(<App />, document.getElementById("app")!);
