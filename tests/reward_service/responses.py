r"""Responses written to try the rules of rewards: well-formed, malformed, adversarial; each with a reference answer."""

# What is boxed, and the reference.
ANSWERS = [
    ("red", "red"),
    ("Red", "red"),
    ("blue", "red"),
    ("12", "12"),
    (r"\frac{1}{2}", "0.5"),
    ("1 / 2", r"\frac{1}{2}"),
    (r"\text{two cats}", "two cats"),
    ("B", "B"),
    ("(B)", "B"),
    ("", "red"),
]

# Forms of a response; ANSWER is where the answer goes.
FORMS = [
    # well-formed
    r"<description>a red square</description><think>it is red</think>\boxed{ANSWER}",
    "<description> a red square </description>\n\n<think>\nit is red\n</think>\n\n\\boxed{ANSWER}\n",
    r"  <description></description> <think></think> \boxed{ANSWER}  ",
    r"< description >a red square< / description >< think >it is red< / think > \boxed{ANSWER}",
    "<\ndescription\n>a red square<\n/\ndescription\n>\n<think>it is red</think>\\boxed{ANSWER}",
    "<description>x < 3, y > 4 and 1/2 of it</description><think>so < and ></think>\\boxed{ANSWER}",
    "<description>line one\nline two\n\nline four</description><think>a\nb</think>\\boxed{ANSWER}",
    "<description>ein grünes Quadrat, 红色</description><think>見て</think>\\boxed{ANSWER}",
    # malformed
    r"\boxed{ANSWER}",
    r"ANSWER",
    r"the answer is \boxed{ANSWER}.",
    r"<think>it is red</think>\boxed{ANSWER}",
    r"<description>a red square</description>\boxed{ANSWER}",
    r"<description>a red square<think>it is red</think>\boxed{ANSWER}",
    r"<description>a red square</description><think>it is red\boxed{ANSWER}",
    r"a red square</description><think>it is red</think>\boxed{ANSWER}",
    r"<think>it is red</think><description>a red square</description>\boxed{ANSWER}",
    r"\boxed{ANSWER}<description>a red square</description><think>it is red</think>",
    r"<description>a red square</description><think>it is red</think>\boxed{ANSWER} is my answer",
    r"Well: <description>a red square</description><think>it is red</think>\boxed{ANSWER}",
    r"<description>a red square</description> and <think>it is red</think>\boxed{ANSWER}",
    r"<description>a red square</description><think>it is red</think> so \boxed{ANSWER}",
    r"<description>a red square</description><think>it is red</think>\boxed{ANSWER",
    r"<description>a red square</description><think>it is red</think>boxed{ANSWER}",
    r"<description>a red square</description><think>it is red</think>\boxed ANSWER",
    r"<Description>a red square</Description><think>it is red</think>\boxed{ANSWER}",
    r"<desc>a red square</desc><think>it is red</think>\boxed{ANSWER}",
    # adversarial
    r"<description>a red square</description><think>it is red</think>\boxed{ANSWER}\boxed{ANSWER}",
    r"<description>a red square</description><think>it is red</think>\boxed{green}\boxed{ANSWER}",
    r"<description>a red square</description><think>is it \boxed{green}?</think>\boxed{ANSWER}",
    r"<description>\boxed{ANSWER}</description><think>it is red</think>\boxed{ANSWER}",
    r"<description>the answer is ANSWER</description><think>it is red</think>\boxed{ANSWER}",
    r"<description>a<description>b</description>c</description><think>d</think>\boxed{ANSWER}",
    r"<description>a</description><description>b</description><think>d</think>\boxed{ANSWER}",
    r"<description>a</description><think>b</think><think>c</think>\boxed{ANSWER}",
    r"<description>a<think>b</description></think>\boxed{ANSWER}",
    r"<description>a</description><think>b</think>\boxed{\boxed{ANSWER}}",
    r"<think>b</think>\boxed{ANSWER}</description><description>",
    r"<description>a</description><think>b</think>\boxed{ANSWER} \boxed{",
    r"<description>a</description><think>b</think>{\boxed{ANSWER}}",
]

# Re-queries and responses of their own.
OTHERS = [
    ("", "red"),
    (" \n ", "red"),
    ("<description>", "red"),
    ("</think>", "red"),
    (r"\boxed{}", "red"),
    (r"\boxed{None}", "red"),
    (r"no answer at all", "None"),
    (r"\boxed{red", "None"),
    (r"\boxed{None}", "None"),
    (r"<think>red</think>\boxed{red}", "red"),
    (r"<think>red</think> \boxed{ red }", "red"),
    (r"<think>red</think> red", "red"),
    (r"\boxed{12,000}", "12000"),
    (r"\boxed{12\%}", "12"),
    (r"\boxed{x=3}", "3"),
    (r"\boxed{(1, 2)}", "(1,2)"),
    (r"\boxed{2\sqrt{2}}", r"\sqrt{8}"),
    (r"\boxed{3.0}", "3"),
    (r"\boxed{3.5}", "7/2"),
    (r"\boxed{\{1, 2\}}", r"\{1,2\}"),
    ("\\boxed{red}\\boxed{blue}", "red"),
    ("\\boxed{" * 50 + "red" + "}" * 50, "red"),
    ("<description>" * 50 + "a" + "</description>" * 50, "red"),
    ("<|image_pad|><description><|image_pad|>a</description><think>b</think>\\boxed{red}", "red"),
]

RESPONSES = list(
    dict.fromkeys([(form.replace("ANSWER", boxed), answer) for form in FORMS for boxed, answer in ANSWERS] + OTHERS)
)
