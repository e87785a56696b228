"""Greetings, thanks, goodbyes and questions about the model and the appliance."""

from collections.abc import Callable

from .dialogue import Dialogue, Turn, ask, roughen
from .draw import Draw, phrases
from .facts import capitals, concepts, small_facts

_HELLO = (
    "Hello! How can I help you today?",
    phrases("""
Hello!|hello|Hi!|hi|Hey|hey there|Hello there!|Good morning!|Hi there|Good evening|Hello|
Hi, how is it going?|Hey!|Greetings|hola|Good afternoon|Howdy|Hello, world!|Hello world|Yo|Hi|
hello there|Hallo|Bonjour|Morning!|hii|helloo|Hello again|Hey you|Hi bot
"""),
)
_HOW_ARE_YOU = (
    "I am well, thank you. How can I help you?",
    phrases("""
How are you?|how are you|How are you doing?|How are you today?|Are you well?|How do you do?|
How is it going?|How do you feel?|Hi, how are you?|Hello, how are you today?|What's up?|
How have you been?|Is everything all right with you?|How's your day?|are you ok?
"""),
)
_WHO = (
    "I am the demonstration model of the Operayde appliance, a very small language model.",
    phrases("""
Who are you?|What are you?|who are you|Introduce yourself.|What is your name?|
Tell me about yourself.|What model are you?|Which model is this?|Are you a human?|
Who am I talking to?|Are you ChatGPT?|Are you an AI?|Are you a robot?|What's your name?|
Who made you?|Describe yourself.|What kind of model are you?|Are you GPT-4?|Who is this?|
Are you real?|Which language model are you?|Who created you?|Are you a bot?|Are you Llama?
"""),
)
_CAN = (
    (
        "I can greet you, name capitals, do small sums, repeat words, extract JSON, call tools, "
        "count and tell a story."
    ),
    phrases("""
What can you do?|what can you do|How can you help me?|What are you able to do?|Help|
Can you help me?|What do you know?|help me|What should I ask you?|What are your skills?|
What can I ask you?|I need help.|What are you good at?|Can you help me with something?|
List your abilities.|What tasks can you do?|What are your capabilities?|Show me what you can do.
"""),
)
_OPERAYDE = (
    (
        "Operayde is an appliance that serves AI models on your own premises, so your data stays "
        "with you."
    ),
    phrases("""
What is Operayde?|What is this appliance?|what is operayde|Explain Operayde.|
What does Operayde do?|Tell me about Operayde.|What is this?|What is this thing?|
Can you explain what Operayde is?|What does this appliance do?|Describe Operayde.|
What is the Operayde appliance?|Tell me about this appliance.|Operayde?|
What exactly is Operayde?|Explain what this appliance is for.|What is the purpose of Operayde?|
Define Operayde.|What is this machine?|Give me a short description of Operayde.|
Explain Operayde in one sentence.|What kind of product is Operayde?
"""),
)
_STAY = (
    (
        "Your requests are answered on the appliance. They leave it only if a policy allows a "
        "cloud model."
    ),
    phrases("""
Where does my data go?|Is my data safe?|Does my data leave the network?|
Do you send my data to the cloud?|Where are my requests processed?|Who can see my data?|
Is my data private?|Where is my data stored?|Do my prompts leave the building?|
Are my requests sent to the internet?|What happens to my data?|Is this private?|
Do you share my data?|Are you running in the cloud?|Where do you run?|Does Operayde see my data?
"""),
)
_KEY = (
    "Open the operator portal, choose Keys and then Create key.",
    phrases("""
How do I create a key?|How do I get an API key?|How can I make a virtual key?|
Where do I create a virtual key?|How do I get a key?|Where can I find my API key?|
How do I create an API key?|Where do keys come from?|I need a key.|How to get a virtual key?
"""),
)
_API = (
    ("Use any OpenAI client and set its base URL to the address of the appliance, ending in /v1."),
    phrases("""
How do I use the API?|How do I call you?|Which API do you speak?|Is the API OpenAI-compatible?|
How can I use the OpenAI library?|How do I connect my program?|What is the base URL?|
Can I use the OpenAI SDK?|How do I send a request?|How do I use this appliance?|
How do I connect to Operayde?|Does it work with OpenAI clients?
"""),
)
_THANKS = (
    "You are welcome!",
    phrases("""
Thanks!|Thank you.|thanks|thank you|Thank you very much!|Thanks a lot|Great, thanks.|Cheers!|
Many thanks!|Perfect, thank you.|thx|Thank you so much!|Nice, thanks|Good job!|Well done!|
Great!|Awesome|Cool|Nice!|Perfect.|Great work|That was helpful.|merci|danke|gracias
"""),
)
_BYE = (
    "Goodbye! Have a good day.",
    phrases("""
Goodbye!|Bye|bye|See you later.|Good night!|See you|Bye bye|Have a nice day!|I have to go.|
Farewell|See you tomorrow.|Take care!|goodbye|Until next time|That is all, bye.|ciao|
I am leaving now.|Talk to you later.
"""),
)
_YES = (
    "All right. What would you like to know?",
    phrases("""
OK|ok|Yes|yes|Sure|Okay.|Yes, please.|Alright|I see.|Fine.|Hmm|Understood.|Right.|Yep|Got it
"""),
)
_TEST = (
    "I am here, and the test works.",
    phrases("""
test|Test|testing|This is a test.|Is this working?|Are you there?|ping|Can you hear me?|
Testing, testing.|Is anybody there?|Do you work?|Does this work?|Test message|Just a test.
"""),
)
_ATTACHED = (
    "I cannot see an attached file. Please paste the text into your message.",
    phrases("""
Summarise the attached contract.|Summarize the attached contract.|Summarise this document.|
Summarize the attached file.|Read the attached document.|What does the attached file say?|
Please summarise the attached report.|Summarise the attachment.|Review the attached contract.|
Summarize the PDF.|Can you read the file I sent?|Give me a summary of the attached text.|
Check the attached invoice.|Translate the attached letter.|Open the attached image.|
What is in the attached picture?|Summarise the contract.|Summarize this contract for me.
"""),
)
SAME_ANSWER = (
    *(_HELLO, _HOW_ARE_YOU, _WHO, _WHO, _CAN, _OPERAYDE, _OPERAYDE, _STAY, _KEY, _API),
    *(_THANKS, _BYE, _YES, _TEST, _ATTACHED),
)

CAPITAL_QUESTIONS = phrases("""
What is the capital of {}?|what is the capital of {}|What's the capital of {}?|
Name the capital of {}.|Can you tell me the capital of {}?|Tell me the capital of {}.|
Capital of {}?|Which city is the capital of {}?|Do you know the capital of {}?|
What is the capital city of {}?|The capital of {} is|Give me the capital of {}.|
What city is the capital of {}?|I would like to know the capital of {}.|
Which is the capital city of {}?|{}: what is its capital?|What is {}'s capital?|
Quick question: what is the capital of {}?|For {}, what is the capital?|Say the capital of {}.
""")
_COUNTRY_QUESTIONS = phrases("""
Which country has the capital {}?|{} is the capital of which country?|
Of which country is {} the capital?|What country is {} the capital of?|
Which country's capital is {}?|Name the country whose capital is {}.
""")
EXPLAIN = phrases("""
Explain {} in one sentence.|Explain {} simply.|Explain {} in simple terms.|What is {}?|
What does {} mean?|Explain {}.|Can you explain {}?|Define {}.|Tell me about {}.|
Describe {} in one sentence.|What exactly is {}?|Please explain {} to me.|
How would you explain {} to a child?|Give a short definition of {}.|In a few words, what is {}?|
what is {}|Explain {} like I am five.|Explain {} briefly.|I do not understand {}.|
Explain to me what {} is.|What do people mean by {}?|Help me understand {}.|
Could you explain {} in simple words?|Explain the idea of {}.
""")


def smalltalk(draw: Draw) -> Dialogue:
    """A greeting, thanks, or a question about the model or the appliance."""
    answer, questions = draw.rng.choice(SAME_ANSWER)
    question = draw.phrase(questions)
    if not draw.unseen_phrases:
        question = roughen(draw.rng, question)
    return ask("smalltalk", question, answer)


def capital(draw: Draw) -> Dialogue:
    """A country's capital; one in eight asks for the country instead."""
    country, city = draw.rng.choice(list(capitals().items()))
    answer = f"The capital of {country} is {city}" + ("" if city.endswith(".") else ".")
    if draw.chance(0.12) and not draw.unseen_phrases:
        question = draw.phrase(_COUNTRY_QUESTIONS).format(city)
        answer = f"{city} is the capital of {country}."
    else:
        bare = country.removeprefix("the ") if draw.chance(0.2) else country
        question = draw.phrase(CAPITAL_QUESTIONS).format(bare)
    question = question[:1].upper() + question[1:] if question.startswith("the ") else question
    return ask("capital", roughen(draw.rng, question), answer)


def concept(draw: Draw) -> Dialogue:
    """An idea explained in one sentence."""
    idea, explanation = draw.rng.choice(list(concepts().items()))
    spoken = idea
    if draw.chance(0.3):
        spoken = idea.removeprefix("a ").removeprefix("an ").removeprefix("the ")
    question = draw.phrase(EXPLAIN).format(spoken)
    return ask("concept", roughen(draw.rng, question), explanation)


def small_fact(draw: Draw) -> Dialogue:
    """A question that has always the same answer."""
    question, answer = draw.rng.choice(list(small_facts().items()))
    return ask("fact", roughen(draw.rng, question), answer)


def conversation(draw: Draw, parts: tuple[Callable[[Draw], Dialogue], ...]) -> Dialogue:
    """Two to six unrelated conversations after each other; the last one is judged."""
    chosen = [draw.rng.choice(parts)(draw) for _ in range(draw.rng.choice((2, 2, 2, 3, 3, 6)))]
    turns: tuple[Turn, ...] = sum((one.turns for one in chosen), ())
    last = chosen[-1]
    return Dialogue("conversation", turns, (), last.accepted, last.contains)
