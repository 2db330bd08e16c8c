"""What stands before an answer that is given as a sentence: `the answer is`."""

import re

from reward_service.graders.texts import clean, spaced

_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore|also|donc|因此|所以)\s*,?\s*)?(?:i\s+(?:think|believe)\s+(?:that\s+)?)?"
    r"(?:it\s+is\b|it's\b|i\s+(?:choose|chose|pick|select)\b"
    r"|"
    r"(?:(?:the|my|die|la|l'|le|el)\s*)?(?:(?:correct|final|best|right|richtige|bonne|final)\s+)*"
    r"(?:answers?|options?|choices?|result|solution|antwort|lösung|ergebnis|réponse|résultat|opción|respuesta|solución|resultado)\b"
    r"(?:\s+(?:correcte?a?|finale?))?(?:\s*(?:is\b|are\b|ist\b|lautet\b|est\b|es\b|=|:))*"
    r"|(?:正确|最终)?(?:答案|选项|结果|正解|答え|解答|回答)(?:应该)?[是为選选は:\s]*|故?[选選](?:择|項|项)?:?"
    r")\s*(?=\S)",
    re.IGNORECASE,
)


def without_lead_in(text: str) -> str:
    """A cleaned text in one line, without the words that only say that an answer follows."""
    text = " ".join(clean(spaced(text)).split())
    found = _LEAD_IN.match(text)
    return text[found.end() :] if found else text
