// Runs a TypeScript snippet: takes the types out and imports what is left.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import ts from "typescript";

const snippet = process.argv[2];
const { outputText } = ts.transpileModule(readFileSync(snippet, "utf-8"), {
  compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
});
// Beside this file, so that the snippet finds the packages that lie here.
const compiled = resolve(import.meta.dirname, `${process.pid}-${basename(snippet)}.mjs`);
writeFileSync(compiled, outputText);
try {
  await import(pathToFileURL(compiled).href);
} finally {
  rmSync(compiled);
}
