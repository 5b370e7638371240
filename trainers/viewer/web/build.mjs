// Bundles src/ into ../static/app.js. The first line names the digest of the sources, which a test compares.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { build } from "esbuild";

const digest = createHash("sha256");
for (const name of readdirSync("src").sort()) digest.update(name).update(readFileSync(`src/${name}`));
await build({
  entryPoints: ["src/main.jsx"],
  outfile: "../static/app.js",
  bundle: true,
  minify: true,
  charset: "ascii",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  banner: { js: `/* sources ${digest.digest("hex")}; contains Preact, MIT License, (c) Jason Miller */` },
});
