#!/usr/bin/env bash
# scikit-learn: a TfidfVectorizer that was fitted on the gold passages gives a retrieved text the same cosine to them however much
# foreign text surrounds what it shares with them: words that it was not fitted on do not count in the text's length.
#
# Versions: scikit-learn 1.7.2, numpy 2.4.6, scipy 1.17.1, Python 3.11.
# Behaviour: fitted on two gold passages, a sentence of the first one has cosine 0.838 to it, and so has the sentence followed by
#   200 words that no gold passage has. `transform` drops unknown words before it normalizes to length 1. Fitted on the gold passages
#   and the text itself (as StepSearch's released reward does, once per passage) the two cosines are 0.769 and 0.108; fitted on a
#   corpus that has the foreign words, 0.834 and 0.153. A single year that a gold passage states has 0.333 to it, with or without
#   the 200 words. So an information-gain reward or a relevance grade by cosine, fitted on gold passages because they are at hand,
#   pays long pages as much as exact ones, and a policy learns to retrieve (or a server to return) as much text as possible:
#   fit on the corpus that is searched, and see that a padded text scores less.
# Seen 2026-11-29:
#   fitted on the gold passages: the sentence 0.838, with 200 foreign words 0.838; a year 0.333, with 200 foreign words 0.333
#   fitted on gold and text: 0.769 and 0.108;  fitted on a corpus: 0.834 and 0.153
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.7.2 numpy==2.4.6 scipy==1.17.1
cat > "$work/probe.py" <<'PY'
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

GOLD = ["Velm is a town on the river Aster; its mayor is Bo Tarn.", "Bo Tarn was born in Ostby in 1931."]
FOREIGN = " ".join(f"quarry{i}" for i in range(200))


def cosines(texts_to_fit, text):
    vectorizer = TfidfVectorizer().fit(texts_to_fit)
    found = cosine_similarity(vectorizer.transform([text]), vectorizer.transform(GOLD))[0]
    return found.round(3).tolist()


sentence = "Velm is a town on the river Aster."
for name, fitted in (("gold", lambda text: GOLD), ("gold and text", lambda text: [*GOLD, text]),
                     ("corpus", lambda text: [*GOLD, FOREIGN])):
    plain, padded = (cosines(fitted(text), text) for text in (sentence, f"{sentence} {FOREIGN}"))
    print(f"fitted on {name}: the sentence {plain[0]}, with 200 foreign words {padded[0]}")
    if name == "gold":
        assert plain == padded and plain[0] > 0.8, (plain, padded)
    else:
        assert padded[0] < 0.25 * plain[0], (plain, padded)

year, padded_year = cosines(GOLD, "1931"), cosines(GOLD, f"1931 {FOREIGN}")
print(f"fitted on gold: a year {year[1]}, with 200 foreign words {padded_year[1]}")
assert year == padded_year and year[1] > 0.3, (year, padded_year)
PY
"$work/venv/bin/python" "$work/probe.py"
