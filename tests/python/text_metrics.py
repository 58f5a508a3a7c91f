"""Goldens of METEOR (NLTK) and ROUGE-L (rouge_score), with the part of WordNet and Punkt that they need.

    python3 -m venv v && v/bin/pip install nltk==3.10.4 rouge_score==0.1.2
    v/bin/python tests/python/text_metrics.py --wordnet DICT_FOLDER --punkt PUNKT_TAB_ENGLISH

DICT_FOLDER holds WordNet 3.0's data.*, index.* and *.exc (Debian: wordnet-base, /usr/share/wordnet);
PUNKT_TAB_ENGLISH is NLTK's punkt_tab/english. Writes tests/goldens/text_metrics/.
"""

import argparse
import json
import pathlib
import random
import shutil
import tempfile

import nltk
import rouge_score
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer

OUT = pathlib.Path(__file__).parent.parent / "goldens" / "text_metrics"


class Reader(WordNetCorpusReader):
    def map_wn(self, version="wordnet"):
        """Other versions of WordNet are not at hand, nor asked for."""
        return None


PARTS = ["noun", "verb", "adj", "adv"]

FIXED = [
    ("10", "10"), ("10", "12"), ("10", "ten"), ("", ""), ("10", ""), ("", "Keep going!"), ("Good.", "Good"),
    ("Nice!", "nice"), ("Keep going!", "Keep going!"), ("Great job.", "Great job!"),
    ("Don't lock your knees.", "Do not lock your knees"), ("You're doing great", "You are doing great!"),
    ("That's it.", "That is it"), ("Can't stop, won't stop", "cannot stop; will not stop"),
    ("I'm gonna count: 1, 2, 3...", "I am going to count 1 2 3"), ("Hold for 10.5 seconds", "Hold for 10 seconds."),
    ("\"Lower\" (a bit)", "'Lower' [a bit]"), ("it's 50% done -- keep on", "it's 50 percent done - keep on"),
    ("Push-ups & sit-ups", "push ups and sit ups"), ("e.g. lower your hips, etc. Then rise.", "Lower your hips. Then rise."),
    ("Dr. Smith says no. 5 is best. Good job.", "No. 5 is the best, says Dr. Smith. Good job."),
    ("Ya casi! ¡Muy bien!", "¡Muy bien! Ya casi"), ("좋아요! 무릎을 펴세요.", "무릎을 펴세요. 좋아요!"), ("Ça va, très bien", "ça va très bien!"),
    ("Straighten your back… now", "straighten your back... now"), ("“Nice” she said", "\"Nice\" she said"),
    ("‘Quick’ feet", "'Quick' feet"), ("Up—down—up", "Up - down - up"), ("Left\tright\nleft", "left right left"),
    ("   spaces   everywhere  ", "spaces everywhere"), ("!!!", "!!!"), ("...", "…"), (".", "."), ("?", "!"),
    ("A. B. C.", "A B C"), ("5 a.m. workouts. Wow.", "Workouts at 5 a.m. wow"), ("It's at 3:30, right?", "it is 3:30 right"),
    ("$5 says you can't!", "5 dollars says you cannot"), ("#1 fan @home", "number 1 fan at home"), ("😀 great 💪", "great 💪"),
    ("gimme more 'n more", "give me more and more"), ("wanna rest? 'Tis over.", "want to rest? It is over"),
    ("lemme see", "let me see"), ("You got ta move. Gotta move!", "you've got to move"), ("Whoa!!! Slow down!!", "Slow down, whoa!"),
    ("<b>Up</b> {down} *hold*", "b Up b down hold"), ("half-way there; almost done", "halfway there, almost finished"),
    ("The the the", "the"), ("a a b b", "b b a a"), ("one two three four", "four three two one"),
    ("Stop. (Really.) Go on.", "Stop. Really. Go on."), ("He said \"stop.\" Then left.", "He said stop. Then left."),
    ("What?! No way... Yes.", "What? No way. Yes!"), ("John's and the dogs' run", "Johns and the dogs run"),
    ("I'd've gone", "I would have gone"), ("x ' y ' z", "x y z"), ("''quoted''", "``quoted``"), ("a,b:c 1,000:2", "a b c 1000"),
]

PHRASES = [
    "Keep your back straight", "Push your knees out", "Nice depth on those squats", "You are going too fast", "Slow down a little",
    "Great pace, hold it there", "Raise your arms higher", "Lift your feet up more", "Don't let your hips sag", "Only 10 seconds left",
    "That's 8 repetitions", "Awesome work, keep moving", "Try to bend your elbows", "Make sure to extend fully", "Good job finishing the set",
    "Your form looks excellent", "Stretch out the quadriceps", "Jump a bit wider", "Breathe steadily", "Remember to engage your core",
    "Fantastic effort today", "Let's begin with jumping jacks", "Halfway through", "Start whenever you're ready", "Watch your balance on the left leg",
    "Squeeze at the top of the movement", "Land softly on your toes", "Wonderful rhythm", "Get those knees up higher", "Relax your shoulders",
    "Quick feet, quick feet", "Almost there, finish strong", "Bring the elbow to the opposite knee", "Straighten the legs completely",
]
SWAPS = {
    "Great": "Good", "Nice": "Fine", "Slow": "Decelerate", "fast": "quickly", "Raise": "Lift", "Lift": "Raise", "Awesome": "Amazing",
    "work": "job", "begin": "start", "Start": "Begin", "Quick": "Fast", "finish": "complete", "completely": "fully", "job": "task",
    "Try": "Attempt", "Make": "Create", "higher": "up", "repetitions": "reps", "Fantastic": "Wonderful", "Wonderful": "Marvelous",
    "movement": "motion", "legs": "leg", "seconds": "second", "finishing": "finish", "squats": "squat", "jumping": "jump", "bend": "flex",
    "Squeeze": "Press", "strong": "strongly", "excellent": "first-class", "extend": "stretch", "rhythm": "beat", "moving": "going",
}
ENDS = ["", ".", "!", "...", "?", ", okay?", " - yes", " (really)", "; go", ": now", " 10", ", 1, 2, 3!", " \U0001f4aa", " é", "!!"]


def pairs():
    rng = random.Random(7)
    out = list(FIXED)
    while len(out) < 300:
        truth = rng.choice(PHRASES)
        words = truth.split()
        kind = rng.randrange(6)
        if kind == 0:
            words = rng.choice(PHRASES).split()
        elif kind == 1:
            rng.shuffle(words)
        elif kind == 2:
            words = words[: rng.randint(1, len(words))]
        elif kind == 3:
            words = words + rng.choice(PHRASES).split()
        if kind != 0:
            words = [SWAPS.get(w, w) if rng.random() < 0.7 else w for w in words]
        said = " ".join(words)
        if rng.random() < 0.3:
            said = said.lower()
        if rng.random() < 0.3:
            truth = truth + ". " + rng.choice(PHRASES)
        out.append((truth + rng.choice(ENDS), said + rng.choice(ENDS)))
    return out


def punkt_parameters(folder):
    lines = lambda name: [l for l in (folder / name).read_text().split("\n") if l]
    parameters = PunktParameters()
    parameters.abbrev_types = set(lines("abbrev_types.txt"))
    parameters.collocations = {tuple(l.split("\t")) for l in lines("collocations.tab")}
    parameters.sent_starters = set(lines("sent_starters.txt"))
    for line in lines("ortho_context.tab"):
        word, flags = line.split("\t")
        parameters.ortho_context[word] = int(flags)
    return parameters


def parts_of_wordnet(folder, words, reader):
    """Index, data and exception lines for `words`; pointers are dropped, so places are counted anew."""
    small = OUT / "wordnet"
    small.mkdir(parents=True, exist_ok=True)
    for part, pos in zip(PARTS, "nvar"):
        forms = set()
        for word in words:
            forms.update(reader._morphy(word, pos))
        exceptions = [l for l in (folder / f"{part}.exc").read_text().splitlines() if l.split()[:1] and l.split()[0] in words]
        lines = (folder / f"data.{part}").read_bytes()
        licence = b"".join(l + b"\n" for l in lines[:4000].split(b"\n") if l.startswith(b"  "))
        data, place_of, index = bytearray(licence), {}, []
        head = "".join(l + "\n" for l in (folder / f"index.{part}").read_text()[:4000].split("\n") if l.startswith("  "))
        for line in (folder / f"index.{part}").read_text().splitlines():
            fields = line.split()
            if line.startswith(" ") or fields[0] not in forms:
                continue
            count, pointers = int(fields[2]), int(fields[3])
            places = []
            for old in fields[4 + pointers + 2 :]:
                if old not in place_of:
                    end = lines.index(b"\n", int(old))
                    f = lines[int(old) : end].decode().split(" ")
                    words_end = 4 + 2 * int(f[3], 16)
                    place_of[old] = f"{len(data):08d}"
                    data += (" ".join([place_of[old], *f[1:words_end], "000"]) + " | \n").encode()
                places.append(place_of[old])
            index.append(" ".join([fields[0], fields[1], str(count), "0", str(count), "0", *places]) + "  ")
        (small / f"index.{part}").write_text(head + "".join(l + "\n" for l in index))
        (small / f"data.{part}").write_bytes(bytes(data))
        (small / f"{part}.exc").write_text("".join(l + "\n" for l in exceptions))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--wordnet", type=pathlib.Path, required=True)
    parser.add_argument("--punkt", type=pathlib.Path, required=True)
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        # NLTK asks for a list of lexicographer files that Debian leaves out; METEOR never looks at it.
        for file in args.wordnet.iterdir():
            shutil.copy(file, work)
        names = pathlib.Path(work) / "lexnames"
        if not names.exists():
            names.write_text("".join(f"{i:02d}\tx{i}\t1\n" for i in range(45)))
        nltk.data.path.append(work)
        reader = Reader(work, None)
        sentences = PunktSentenceTokenizer()
        sentences._params = punkt_parameters(args.punkt)
        words = lambda text: [w for s in sentences.tokenize(text) for w in NLTKWordTokenizer().tokenize(s)]
        rouge = RougeScorer(["rougeL"], use_stemmer=False)
        stemmer, seen, rows = PorterStemmer(), set(), []
        for truth, said in pairs():
            tokens = [words(truth), words(said)]
            for word in (w.lower() for side in tokens for w in side):
                seen.update([word, stemmer.stem(word)])
            rows.append({
                "reference": truth,
                "prediction": said,
                "tokens": tokens,
                "meteor": single_meteor_score(*tokens, wordnet=reader),
                "rouge_l": rouge.score(truth, said)["rougeL"].fmeasure,
            })
        parts_of_wordnet(args.wordnet, seen, reader)
        stems = [[w, stemmer.stem(w)] for w in sorted(seen)]
    small = OUT / "punkt"
    small.mkdir(exist_ok=True)
    for name in ["abbrev_types.txt", "collocations.tab", "sent_starters.txt"]:
        (small / name).write_text((args.punkt / name).read_text())
    texts = " ".join(t for pair in pairs() for t in pair).lower()
    kept = [l for l in (args.punkt / "ortho_context.tab").read_text().splitlines() if l.split("\t")[0].rstrip(".") in texts]
    (small / "ortho_context.tab").write_text("".join(l + "\n" for l in kept))
    head = {"nltk": nltk.__version__, "rouge_score": "0.1.2", "wordnet": "3.0"}
    body = json.dumps({**head, "stems": stems, "pairs": rows}, ensure_ascii=False, indent=0)
    (OUT / "golden.json").write_text(body + "\n")
    print(len(rows), "pairs;", sum(r["meteor"] > 0 for r in rows), "with a match")


if __name__ == "__main__":
    main()
