// The address: #/page/part/part?name=value. Everything that is shown can be linked.
import { useEffect, useState } from "preact/hooks";

export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  return { parts: path.split("/").map(decode), query: new URLSearchParams(query) };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // not written by this page
  }
}

/** A text that addresses can hold: lone surrogates, which ids of foreign files may have, are replaced. */
export const wellFormed = (text) => String(text).replace(/\p{Surrogate}/gu, "\ufffd");

export function link(parts, query) {
  const text = query ? new URLSearchParams(query).toString() : "";
  return `#/${parts.map((part) => encodeURIComponent(wellFormed(part))).join("/")}${text ? `?${text}` : ""}`;
}

export function useRoute() {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const changed = () => setRoute(parse(location.hash));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

/** Change the filters of the table without a new entry in the history. */
export function replaceQuery(query) {
  history.replaceState(null, "", link([""], query));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export const episodeLink = (file, line) => link(["episode", file, line]);
export const groupLink = (file, group) => link(["group", file, group]);
