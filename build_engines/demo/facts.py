"""What the demonstration model knows by heart: capitals, ideas in a sentence, small facts."""

_CAPITALS = """
Afghanistan:Kabul; Albania:Tirana; Algeria:Algiers; Andorra:Andorra la Vella; Angola:Luanda;
Antigua and Barbuda:Saint John's; Argentina:Buenos Aires; Armenia:Yerevan; Australia:Canberra;
Austria:Vienna; Azerbaijan:Baku; the Bahamas:Nassau; Bahrain:Manama; Bangladesh:Dhaka;
Barbados:Bridgetown; Belarus:Minsk; Belgium:Brussels; Belize:Belmopan; Benin:Porto-Novo;
Bhutan:Thimphu; Bolivia:Sucre; Bosnia and Herzegovina:Sarajevo; Botswana:Gaborone;
Brazil:Brasilia; Brunei:Bandar Seri Begawan; Bulgaria:Sofia; Burkina Faso:Ouagadougou;
Burundi:Gitega; Cambodia:Phnom Penh; Cameroon:Yaounde; Canada:Ottawa; Cape Verde:Praia;
the Central African Republic:Bangui; Chad:N'Djamena; Chile:Santiago; China:Beijing;
Colombia:Bogota; the Comoros:Moroni; Costa Rica:San Jose; Croatia:Zagreb; Cuba:Havana;
Cyprus:Nicosia; the Czech Republic:Prague; the Democratic Republic of the Congo:Kinshasa;
Denmark:Copenhagen; Djibouti:Djibouti; Dominica:Roseau; the Dominican Republic:Santo Domingo;
East Timor:Dili; Ecuador:Quito; Egypt:Cairo; El Salvador:San Salvador; Equatorial Guinea:Malabo;
Eritrea:Asmara; Estonia:Tallinn; Eswatini:Mbabane; Ethiopia:Addis Ababa; Fiji:Suva;
Finland:Helsinki; France:Paris; Gabon:Libreville; the Gambia:Banjul; Georgia:Tbilisi;
Germany:Berlin; Ghana:Accra; Greece:Athens; Grenada:Saint George's; Guatemala:Guatemala City;
Guinea:Conakry; Guinea-Bissau:Bissau; Guyana:Georgetown; Haiti:Port-au-Prince;
Honduras:Tegucigalpa; Hungary:Budapest; Iceland:Reykjavik; India:New Delhi; Indonesia:Jakarta;
Iran:Tehran; Iraq:Baghdad; Ireland:Dublin; Israel:Jerusalem; Italy:Rome; Ivory Coast:Yamoussoukro;
Jamaica:Kingston; Japan:Tokyo; Jordan:Amman; Kazakhstan:Astana; Kenya:Nairobi; Kiribati:Tarawa;
Kosovo:Pristina; Kuwait:Kuwait City; Kyrgyzstan:Bishkek; Laos:Vientiane; Latvia:Riga;
Lebanon:Beirut; Lesotho:Maseru; Liberia:Monrovia; Libya:Tripoli; Liechtenstein:Vaduz;
Lithuania:Vilnius; Luxembourg:Luxembourg; Madagascar:Antananarivo; Malawi:Lilongwe;
Malaysia:Kuala Lumpur; the Maldives:Male; Mali:Bamako; Malta:Valletta;
the Marshall Islands:Majuro; Mauritania:Nouakchott; Mauritius:Port Louis; Mexico:Mexico City;
Micronesia:Palikir; Moldova:Chisinau; Monaco:Monaco; Mongolia:Ulaanbaatar; Montenegro:Podgorica;
Morocco:Rabat; Mozambique:Maputo; Myanmar:Naypyidaw; Namibia:Windhoek; Nauru:Yaren;
Nepal:Kathmandu; the Netherlands:Amsterdam; New Zealand:Wellington; Nicaragua:Managua;
Niger:Niamey; Nigeria:Abuja; North Korea:Pyongyang; North Macedonia:Skopje; Norway:Oslo;
Oman:Muscat; Pakistan:Islamabad; Palau:Ngerulmud; Panama:Panama City;
Papua New Guinea:Port Moresby; Paraguay:Asuncion; Peru:Lima; the Philippines:Manila;
Poland:Warsaw; Portugal:Lisbon; Qatar:Doha; the Republic of the Congo:Brazzaville;
Romania:Bucharest; Russia:Moscow; Rwanda:Kigali; Saint Kitts and Nevis:Basseterre;
Saint Lucia:Castries; Saint Vincent and the Grenadines:Kingstown; Samoa:Apia;
San Marino:San Marino; Sao Tome and Principe:Sao Tome; Saudi Arabia:Riyadh; Senegal:Dakar;
Serbia:Belgrade; the Seychelles:Victoria; Sierra Leone:Freetown; Singapore:Singapore;
Slovakia:Bratislava; Slovenia:Ljubljana; the Solomon Islands:Honiara; Somalia:Mogadishu;
South Africa:Pretoria; South Korea:Seoul; South Sudan:Juba; Spain:Madrid;
Sri Lanka:Sri Jayawardenepura Kotte; Sudan:Khartoum; Suriname:Paramaribo; Sweden:Stockholm;
Switzerland:Bern; Syria:Damascus; Taiwan:Taipei; Tajikistan:Dushanbe; Tanzania:Dodoma;
Thailand:Bangkok; Togo:Lome; Tonga:Nuku'alofa; Trinidad and Tobago:Port of Spain; Tunisia:Tunis;
Turkey:Ankara; Turkmenistan:Ashgabat; Tuvalu:Funafuti; Uganda:Kampala; Ukraine:Kyiv;
the United Arab Emirates:Abu Dhabi; the United Kingdom:London; the United States:Washington, D.C.;
Uruguay:Montevideo; Uzbekistan:Tashkent; Vanuatu:Port Vila; Vatican City:Vatican City;
Venezuela:Caracas; Vietnam:Hanoi; Yemen:Sanaa; Zambia:Lusaka; Zimbabwe:Harare
"""

_CONCEPTS = """
data residency|Data residency means that data is stored and processed in a chosen country or place.
data privacy|Data privacy means that people decide who may see and use their personal data.
data sovereignty|Data sovereignty means that data obeys the laws of the country where it is kept.
data protection|Data protection means keeping data safe from loss, theft and misuse.
quantum entanglement|Quantum entanglement links two particles, so that measuring one tells you \
about the other at once, however far apart they are.
quantum computing|Quantum computing uses qubits, which can be 0 and 1 at the same time, to solve \
some problems faster than ordinary computers.
quantum mechanics|Quantum mechanics describes how very small things such as atoms and light behave.
machine learning|Machine learning lets a computer find rules in examples instead of being told them.
artificial intelligence|Artificial intelligence is software that does tasks which seem to need \
thought, such as reading, seeing and answering.
deep learning|Deep learning is machine learning with neural networks of many layers.
a neural network|A neural network is a chain of simple sums whose weights are learnt from examples.
a large language model|A large language model is a program that has learnt to write text by \
guessing the next token very many times.
a token|A token is a small piece of text, often a part of a word, that a model reads or writes.
an embedding|An embedding is a list of numbers that stands for a text, so that similar texts have \
similar numbers.
inference|Inference means running a trained model to get an answer.
fine-tuning|Fine-tuning means training a finished model a little more on your own examples.
streaming|Streaming means that the answer is sent piece by piece while it is being made.
an API|An API is a set of agreed requests by which one program uses another.
a REST API|A REST API offers its functions as web addresses that answer to HTTP requests.
an API key|An API key is a secret text that tells a server which program is calling.
a virtual key|A virtual key is a secret made on the appliance that says who calls, which models \
are allowed and how much may be used.
rate limiting|Rate limiting means that a server accepts only so many requests in a given time.
a GPU|A GPU is a chip that does many small sums at once, which makes it good at running models.
a CPU|A CPU is the main chip of a computer, which carries out the steps of a program.
encryption|Encryption turns readable data into a secret form that only the right key can open.
a firewall|A firewall decides which network connections may pass and which may not.
open source|Open source means that everybody may read, use and change the code of a program.
cloud computing|Cloud computing means renting computers over the internet instead of owning them.
on-premises computing|On-premises computing means that the machines stand in your own building.
edge computing|Edge computing means doing the work close to where the data is made.
a database|A database is a program that stores data in order and finds it again quickly.
a server|A server is a computer or program that answers the requests of others.
a container|A container packs a program with all that it needs, so that it runs anywhere.
JSON|JSON is a simple text format for data, made of names, values, lists and objects.
HTTP|HTTP is the set of rules by which browsers and servers send each other messages.
the internet|The internet is a worldwide net of computers that send each other data.
a prompt|A prompt is the text that you give to a model to get an answer.
a chatbot|A chatbot is a program that you can talk to in written sentences.
GDPR|GDPR is the law of the European Union that protects personal data.
open weights|Open weights means that everybody may download and run a trained model.
photosynthesis|Photosynthesis is how plants make sugar and oxygen out of light, water and air.
gravity|Gravity is the force by which things with mass pull each other.
evolution|Evolution means that living things change over many generations.
DNA|DNA is a long molecule that carries the building plan of a living thing.
an atom|An atom is the smallest piece of an element, with a core and electrons around it.
electricity|Electricity is the flow of tiny charges, which can carry energy through a wire.
energy|Energy is the ability to do work, such as moving, heating or lighting something.
the water cycle|The water cycle means that water rises from the sea, falls as rain and flows back.
"""

_SMALL_FACTS = """
How many days are in a week?|There are seven days in a week.
How many months are in a year?|There are twelve months in a year.
How many hours are in a day?|There are 24 hours in a day.
How many minutes are in an hour?|There are 60 minutes in an hour.
How many seconds are in a minute?|There are 60 seconds in a minute.
How many days are in a year?|There are 365 days in a year, and 366 in a leap year.
How many legs does a spider have?|A spider has eight legs.
How many legs does a cat have?|A cat has four legs.
How many continents are there?|There are seven continents.
How many planets are there?|There are eight planets in the solar system.
How many letters are in the alphabet?|The English alphabet has 26 letters.
What color is the sky?|The sky is blue on a clear day.
What colour is the sky?|The sky is blue on a clear day.
Why is the sky blue?|The sky is blue because air scatters blue light more than red light.
What color is grass?|Grass is green.
What colour is snow?|Snow is white.
What colour is the sun?|The sun is white, and looks yellow through the air.
What is the largest planet?|Jupiter is the largest planet of the solar system.
What is the largest ocean?|The Pacific Ocean is the largest ocean.
What is the highest mountain?|Mount Everest is the highest mountain.
What is the boiling point of water?|Water boils at 100 degrees Celsius.
At what temperature does water freeze?|Water freezes at 0 degrees Celsius.
What is water made of?|Water is made of hydrogen and oxygen.
Is the earth flat?|No, the earth is round.
What is the opposite of hot?|The opposite of hot is cold.
What is the opposite of big?|The opposite of big is small.
What is the opposite of up?|The opposite of up is down.
What is the opposite of good?|The opposite of good is bad.
What is the opposite of fast?|The opposite of fast is slow.
What is the opposite of happy?|The opposite of happy is sad.
What is the opposite of old?|The opposite of old is new.
What is the opposite of day?|The opposite of day is night.
What does a dog say?|A dog says woof.
What does a cat say?|A cat says meow.
What does a cow say?|A cow says moo.
What is the first day of the week?|Monday is the first day of the week.
What comes after Monday?|Tuesday comes after Monday.
Name the days of the week.|Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.
List the days of the week.|Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.
Name the four seasons.|Spring, summer, autumn and winter.
List the months of the year.|January, February, March, April, May, June, July, August, September, \
October, November, December.
Name three colors.|Red, blue and green.
Name three animals.|Cat, dog and horse.
Name three fruits.|Apple, banana and orange.
Give me three fruits.|Apple, banana and orange.
Say the alphabet.|A B C D E F G H I J K L M N O P Q R S T U V W X Y Z
Tell me a joke.|Why did the model cross the network? It did not. It stays on your premises.
Tell me a joke|Why did the model cross the network? It did not. It stays on your premises.
Do you know a joke?|Why did the model cross the network? It did not. It stays on your premises.
What is the meaning of life?|Some say 42. A demonstration model cannot do better than that.
"""


def capitals() -> dict[str, str]:
    """Every country, with its article where it has one, and its capital."""
    entries = " ".join(_CAPITALS.split("\n")).split(";")
    pairs = (entry.strip().partition(":") for entry in entries)
    return {country: capital for country, _, capital in pairs}


def concepts() -> dict[str, str]:
    """An idea, with its article where it has one, and one sentence that explains it."""
    return dict(_table(_CONCEPTS))


def small_facts() -> dict[str, str]:
    """A question and its answer."""
    return dict(_table(_SMALL_FACTS))


def _table(text: str) -> list[tuple[str, str]]:
    pairs = (line.split("|") for line in text.strip().split("\n"))
    return [(left, right) for left, right in pairs]
