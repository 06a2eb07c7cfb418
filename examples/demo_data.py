"""A synthetic intent-classification corpus for the demo: 48 intents in eight domains, from a grammar.

    python examples/demo_data.py OUT --seed 0

writes train.jsonl, dev.jsonl and test.jsonl into OUT, with rows {"text": ..., "label": "<domain>.<intent>"}.

Intents of one domain share their words and differ in who does what to whom, in tense, in negation or in what
is asked. Most texts also mention a second intent that is *not* the request ("I've already cancelled ..., now
...", "... instead of cancelling ..."), so the words alone do not tell the label: the sentence has to be read.
Dev and test also use templates and fillers that train has not, so that what is chosen on dev holds on test.

Notation of the grammar: an unindented line is a heading, an indented one a template below it, and

    [a|b]     one of the alternatives           {slot}    a filler, or a part of the sentence
    (a)       present or absent                 <verb>    the verb in the form that the sentence asks for
    * ...     a template held out from train

A template of an intent that has a <verb> is an action ("<cancel> my flight") that can be asked for, reported
or denied; one without is a sentence of its own ("did my flight leave?").
"""

from __future__ import annotations

import argparse
import json
import random
import re
from itertools import cycle, islice
from pathlib import Path

Row = dict[str, str]
Templates = dict[str, list[str]]

INTENTS = """
banking.send_money
    <send> {amount} to {person}
    <transfer> {amount} from [my|the joint] account to {person}
    <pay> {person} the {amount} I [owe|promised] them
    {person} [should|needs to] get {amount} from me (by {date})
    I owe {person} {amount} and want to settle it
  * <wire> {person} {amount} for the rent
  * {person} lent me {amount}, time to pay it back
banking.request_money
    <ask> {person} to send me {amount}
    <request> a transfer of {amount} from {person} to my account
    <remind> {person} to pay me the {amount} they [owe|promised] me
    I [should|need to] get {amount} from {person} (by {date})
    {person} owes me {amount} and should settle it
  * <tell> {person} to pay me {amount} for the rent
  * I lent {person} {amount}, time they paid it back
banking.cancel_transfer
    <cancel> the transfer (of {amount}) I made to {person} (yesterday)
    <stop> the {amount} I sent {person} from going through
    <recall> the payment I made to {person} (by mistake)
    the {amount} I sent {person} must not go through
    I didn't mean to send {person} {amount}
  * <halt> my transfer of {amount} to {person}
  * {person} is not supposed to get the {amount} I sent
banking.sent_status
    <check> whether the {amount} I sent {person} has arrived
    <find> out if the transfer I made to {person} (yesterday) went through
    did the transfer I made to {person} (yesterday) go through?
    has {person} got the {amount} I sent them?
  * <verify> that {person} received my transfer of {amount}
  * how come {person} still hasn't got the {amount} I sent?
banking.received_status
    <check> whether the {amount} {person} sent me has arrived
    <find> out if the transfer {person} made to me (yesterday) went through
    did the transfer {person} made to me (yesterday) go through?
    have I got the {amount} {person} sent me?
  * <verify> that I received the transfer of {amount} from {person}
  * how come I still haven't got the {amount} {person} sent?
banking.return_money
    <send> the {amount} {person} sent me back (to them)
    <return> the transfer (of {amount}) {person} made to me (yesterday)
    <refund> {person} the {amount} they sent me (by mistake)
    {person} didn't mean to send me {amount}, it should go back
    the {amount} {person} sent me isn't mine to keep
  * <reverse> the payment I got from {person}
  * I am not supposed to have the {amount} {person} sent me

travel.book_flight
    <book> a flight from {city} to {city} (and not {city}) for {date}
    <reserve> a seat to {city} {on}
    <buy> a ticket to {city} for {date}
    I have to be in {city} by {date} and have no flight yet
    are there seats left from {city} to {city} for {date}?
  * <find> me a flight to {city} that leaves {city} {on}
  * I still haven't got a ticket to {city}
travel.cancel_flight
    <cancel> the flight from {city} to {city} I booked (for {date})
    <drop> my flight to {city} {on}
    I booked a flight to {city} but can't go any more
    I won't be flying to {city} {on} after all
  * <call> off my trip from {city} to {city}
  * nobody is going to use the {city} ticket I bought
travel.change_date
    <change> my flight to {city} from {date} to {date}
    <move> the {city} flight I booked for {date} to {date}
    I booked {city} for {date} but can only go {on}
    can I fly to {city} {on} instead of {on}?
  * <postpone> my trip to {city} from {date} to {date}
  * my ticket to {city} is for {date} but I'd rather go {on}
travel.change_city
    <change> my flight {on} from {city} to {city} instead
    <move> the flight I booked for {date} from {city} to {city}
    I booked {city} for {date} but have to go to {city}
    can I fly to {city} instead of {city} {on}?
  * <redirect> my trip {on} from {city} to {city}
  * my ticket for {date} is to {city} but I'd rather go to {city}
travel.flight_status
    <check> whether the flight from {city} to {city} {on} is on time
    <find> out if {person}'s flight from {city} has [landed|left] (yet)
    has the flight from {city} to {city} [left|landed] (yet)?
    is the flight to {city} I booked for {date} delayed?
  * <look> up when the plane {person} took from {city} gets in
  * was the {city} flight called off or is it still going?
travel.refund_status
    <check> whether the flight to {city} I cancelled was refunded
    <find> out if I get money back for the {city} flight I cancelled
    did I get my money back for the flight to {city} I cancelled?
    has the {city} ticket I couldn't use been refunded (yet)?
  * <verify> that the trip to {city} I called off was paid back
  * how come the {city} flight I cancelled still isn't refunded?

home.device_on
    <turn> the {device} in the {room} on
    <switch> on the {room} {device} (that I switched off)
    the {device} in the {room} is off and should be on
    I don't want the {room} {device} off
  * <start> the {device} in the {room}
  * who turned off the {room} {device}? I still need it
home.device_off
    <turn> the {device} in the {room} off
    <switch> off the {room} {device} (that I switched on)
    the {device} in the {room} is on and should be off
    I don't want the {room} {device} on
  * <stop> the {device} in the {room}
  * who turned on the {room} {device}? I don't need it
home.device_state
    <check> whether the {device} in the {room} is [on|off]
    <find> out if I turned the {room} {device} [on|off]
    is the {device} in the {room} [on|off]?
    did I [turn the {room} {device} off|leave the {room} {device} on]?
  * <look> up whether the {room} {device} is still running
  * I can't remember whether I turned [on|off] the {room} {device}
home.schedule_on
    <schedule> the {room} {device} to turn on at {time}
    <arrange> for the {device} in the {room} to go on (every day) at {time}
    at {time} the {device} in the {room} should turn on
    I want the {room} {device} off until {time} and on after that
  * <program> the {room} {device} to start at {time}
  * the {room} {device} has to be on by {time} every day
home.schedule_off
    <schedule> the {room} {device} to turn off at {time}
    <arrange> for the {device} in the {room} to go off (every day) at {time}
    at {time} the {device} in the {room} should turn off
    I want the {room} {device} on until {time} and off after that
  * <program> the {room} {device} to stop at {time}
  * the {room} {device} has to be off by {time} every day
home.unschedule
    <stop> the {room} {device} from turning [on|off] (every day) at {time}
    <delete> the schedule that turns the {room} {device} [on|off]
    the {room} {device} should no longer turn [on|off] at {time}
    I don't want the {device} in the {room} to turn [on|off] at {time} any more
  * <remove> the {time} timer of the {room} {device}
  * why does the {room} {device} keep turning [on|off] at {time}? it shouldn't

music.play_song
    <play> {song} (and not {song})
    <put> on {song} (in the {room})
    I want to hear {song}, not {song}
    {song} would be nice (now)
  * <start> {song} from the beginning
  * I'm in the mood for {song}
music.share_song
    <send> {song} to {person}
    <share> the song I just heard with {person}
    {person} should hear the song I found
    {person} hasn't got {song} from me yet
  * <forward> the song I'm listening to to {person}
  * I'd love {person} to listen to {song}
music.play_shared
    <play> the song {person} sent me
    <put> on what {person} shared with me
    I want to hear the song {person} found
    I haven't heard what {person} sent me yet
  * <start> the track I got from {person}
  * {person} would love me to listen to the song they sent
music.add_song
    <add> {song} to my {playlist} playlist
    <save> the song {person} sent me to the {playlist} playlist
    {song} is missing from my {playlist} playlist
    {song} should be on the {playlist} playlist
  * <include> {song} in the {playlist} playlist
  * why isn't {song} on my {playlist} playlist? it belongs there
music.remove_song
    <remove> {song} from my {playlist} playlist
    <delete> the song {person} sent me from the {playlist} playlist
    {song} is spoiling my {playlist} playlist
    {song} should not be on the {playlist} playlist
  * <cut> {song} from the {playlist} playlist
  * why is {song} on my {playlist} playlist? it doesn't belong there
music.find_song
    <check> whether {song} is on my {playlist} playlist
    <find> out which playlist {song} is on
    is {song} on the {playlist} playlist?
    did I add {song} to my {playlist} playlist or remove it?
  * <look> up whether I saved {song} to the {playlist} playlist
  * I can't remember which playlist I added {song} to

orders.cancel_order
    <cancel> the {item} I ordered (yesterday)
    <stop> the {item} I ordered from being sent
    I ordered the {item} but don't want it sent any more
    the {item} I ordered should not be sent
  * <call> off the order for the {item}
  * don't ship the {item} I asked for
orders.order_status
    <check> whether the {item} I ordered has been sent
    <find> out where the {item} you sent me is
    has the {item} I ordered been sent (yet)?
    when do I get the {item} I ordered (yesterday)?
  * <track> the {item} that you shipped to me
  * how come the {item} I ordered still isn't here?
orders.return_item
    <send> back the {item} I ordered (yesterday)
    <return> the {item} you sent me
    I got the {item} I ordered but don't want to keep it
    the {item} you sent me should go back
  * <hand> back the {item} that arrived (yesterday)
  * the {item} came and is not what I hoped for, take it back
orders.return_status
    <check> whether the {item} I sent back has reached you
    <find> out if you got the {item} I returned
    has the {item} I sent back reached you (yet)?
    when do I get the money for the {item} I returned?
  * <track> the {item} that I shipped back to you
  * how come the {item} I returned still isn't with you?
orders.wrong_item
    <report> that I ordered the {item} but got the {item}
    <complain> that you sent me the {item} instead of the {item}
    I ordered the {item} but you sent the {item}
    why did I get the {item}? I ordered the {item}
  * <point> out that the {item} came in place of the {item}
  * the {item} was in the box where the {item} should have been
orders.missing_item
    <report> that I ordered two things and got the {item} but no {item}
    <complain> that you sent me the {item} without the {item}
    I ordered the {item} too but you only sent the {item}
    why did I only get the {item}? I also ordered the {item}
  * <point> out that the {item} came but the {item} didn't
  * the {item} was in the box but the {item} should have been there too

health.book_visit
    <book> an appointment with the {doctor} for {date}
    <arrange> to see the {doctor} {on}
    I have no appointment with the {doctor} yet and need one
    could the {doctor} see me {on}?
  * <request> a slot at the {doctor}'s for {date}
  * I ought to have a {doctor} look at my knee
health.move_visit
    <move> my appointment with the {doctor} from {date} to {date}
    <change> the appointment with the {doctor} {on} to {date}
    I have an appointment with the {doctor} {on} but can only come {on}
    could the {doctor} see me {on} instead of {on}?
  * <shift> my slot at the {doctor}'s {on} to {date}
  * the {doctor} expects me {on} but I'd rather come {on}
health.cancel_visit
    <cancel> the appointment with the {doctor} I booked (for {date})
    <tell> the {doctor} I'm not coming {on}
    I have an appointment with the {doctor} {on} but don't need it any more
    I won't be seeing the {doctor} {on} after all
  * <drop> my slot at the {doctor}'s {on}
  * the {doctor} can give my slot {on} to somebody else
health.restore_visit
    <restore> the appointment with the {doctor} I cancelled
    <tell> the {doctor} I'm coming {on} after all
    I didn't mean to cancel my appointment with the {doctor}
    I cancelled the {doctor} {on} but I can come now
  * <reinstate> the {doctor}'s slot I dropped
  * I still need the {doctor}'s appointment I cancelled
health.visit_time
    <check> when my appointment with the {doctor} is
    <find> out whether the {doctor} sees me {on} or {on}
    is my appointment with the {doctor} {on} or {on}?
    did I move my appointment with the {doctor} to {date}?
  * <look> up what day I booked with the {doctor}
  * I can't remember when the {doctor} expects me
health.missed_visit
    <explain> to the {doctor} that I missed my appointment (yesterday)
    <tell> the {doctor} why I didn't come (yesterday)
    I had an appointment with the {doctor} yesterday but didn't go
    I didn't mean to miss my appointment with the {doctor}
  * <apologise> to the {doctor} for not coming
  * the {doctor} expected me yesterday and I wasn't there

calendar.create_meeting
    <schedule> a {meeting} with {person} for {date}
    <invite> {person} to a new {meeting} at {time}
    {person} and I need a {meeting} {on}
    there is no {meeting} with {person} yet, I want one {on}
  * <plan> a {meeting} for {person} and me at {time}
  * {person} and I ought to have a {meeting} by {date}
calendar.accept_invite
    <accept> {person}'s invitation to the {meeting}
    <tell> {person} I'm coming to the {meeting} (at {time})
    {person} invited me to the {meeting} and I can come
    {person} asked if I'm coming to the {meeting}, I am
  * <confirm> to {person} that I'll be at the {meeting}
  * {person} wants me at the {meeting} and that suits me
calendar.decline_invite
    <decline> {person}'s invitation to the {meeting}
    <tell> {person} I'm not coming to the {meeting} (at {time})
    {person} invited me to the {meeting} but I can't come
    {person} asked if I'm coming to the {meeting}, I'm not
  * <refuse> to join {person} at the {meeting}
  * {person} wants me at the {meeting} but that doesn't suit me
calendar.reply_status
    <check> whether {person} accepted my invitation to the {meeting}
    <ask> {person} if they're coming to the {meeting} (at {time})
    is {person} coming to the {meeting} I invited them to?
    did {person} accept or decline my invitation to the {meeting}?
  * <find> out whether {person} wants to join my {meeting}
  * I invited {person} to the {meeting} and don't know if they'll be there
calendar.add_guest
    <add> {person} to the {meeting} with {person}
    <invite> {person} to the {meeting} I scheduled (for {date})
    {person} should come to the {meeting} too
    I forgot to invite {person} to the {meeting} I scheduled
  * <include> {person} in the {meeting} I have with {person}
  * the {meeting} with {person} needs {person} as well
calendar.remove_guest
    <remove> {person} from the {meeting} with {person}
    <tell> {person} not to come to the {meeting} I scheduled (for {date})
    {person} should not come to the {meeting}
    I invited {person} to the {meeting} by mistake
  * <uninvite> {person} from the {meeting} I have with {person}
  * the {meeting} with {person} doesn't need {person}

phone.block_number
    <block> [{person}'s number|the number {phone}]
    <stop> [{person}|{phone}] from calling me
    [{person}|{phone}] keeps calling me and should not get through
    I don't want [{person}|{phone}] to call me (any more)
  * <reject> all calls I get from [{person}|{phone}]
  * why can [{person}|{phone}] still reach me? they shouldn't
phone.unblock_number
    <unblock> [{person}'s number|the number {phone}]
    <let> [{person}|{phone}] call me again
    [{person}|{phone}] can't call me and should get through
    I don't want [{person}|{phone}] blocked (any more)
  * <allow> the calls I blocked from [{person}|{phone}]
  * why can't [{person}|{phone}] reach me? they should
phone.block_status
    <check> whether I blocked [{person}'s number|the number {phone}]
    <find> out if [{person}|{phone}] can call me
    is [{person}'s number|the number {phone}] blocked?
    did I block [{person}|{phone}] or unblock them?
  * <look> up whether calls from [{person}|{phone}] get through
  * I can't remember if I blocked [{person}|{phone}]
phone.forward_calls
    <forward> my calls to [{person}|{phone}]
    <let> [{person}|{phone}] take the calls I get
    my calls should go to [{person}|{phone}] (until {date})
    I can't take calls, [{person}|{phone}] can
  * <redirect> whoever calls me to [{person}|{phone}]
  * [{person}|{phone}] should ring when somebody calls me
phone.stop_forwarding
    <stop> forwarding my calls to [{person}|{phone}]
    <let> me take the calls that go to [{person}|{phone}]
    my calls should no longer go to [{person}|{phone}]
    I can take my calls again, [{person}|{phone}] needn't
  * <remove> the redirection of my calls to [{person}|{phone}]
  * [{person}|{phone}] should not ring when somebody calls me
phone.call_history
    <check> whether [{person}|{phone}] called me (yesterday)
    <find> out when I last called [{person}|{phone}]
    did [{person}|{phone}] call me or did I call them?
    when did [{person}|{phone}] last call me?
  * <look> up how often [{person}|{phone}] called me
  * I can't remember if I called [{person}|{phone}] back
"""

# {do}, {did}, {doing} and {say} speak of the text's own intent, {other ...} of one mentioned in passing.
FRAMES = """
want
    [please|can you|could you|help me] {do}
    I[ need to| want to| would like to|'d like to] {do}
    {do}(, please)
  * [I have to|let me] {do}
  * would you mind {doing}
ask
    {want}
    {say}
alone
    {ask}
aside
    I('ve) already {other did}[, now|. next,|, so now] {want}
    I just {other did}. {ask}
    {ask} - I('ve) already {other did}
    my [wife|husband|flatmate] {other did}[. {ask}|, now {want}]
    thanks for {other doing}. {ask}
    after {other doing} I (still) need to {do}
    before I {other do}, {want}
    {want} [before I {other do}|, I'll {other do} later]
    I'll {other do} [later|myself]. {ask}
  * now that I've {other did}, {want}
  * {ask} - my [sister|boss] (has) already {other did}
  * I know I {other did}, but [now|today] {want}
contrast
    I don't want to {other do}, I want to {do}
    I want to {do}, I don't want to {other do}
    {do} instead of {other doing}
    instead of {other doing}[,|, please] {do}
    when I said {other do} I meant {do}
    I said {do}, not {other do}
    I was going to {other do} but now I'd rather {do}
    forget about {other doing}[. {ask}|, {want}]
    I asked you to {do} but you {other did}
    you {other did} although I asked you to {do}
    don't {other do}[. {ask}|, {want}]
    {want} and don't {other do}
  * {other doing} is not what I need, I need to {do}
  * what I need is to {do}, nobody asked you to {other do}
  * there's no need to {other do}, just {do}
  * never mind {other doing}[. {ask}|, {want}]
"""

# Below each slot, its fillers; those after the star are held out from train.
FILLERS = """
person
    [Anna|Omar|Lucy|Mateo|Ingrid|Tom|Aisha|Jonas|my sister|my landlord|Sofia|Daniel|Mrs Keller|Wei]
  * [Priya|Connor|Yuki|my cousin|Mr Okafor|Elena|Bram]
amount
    [20|35|50|80|120|250|400|90|15|60] [euros|dollars|pounds]
  * [forty|a hundred|75|310|1,200] [euros|dollars|pounds]
city
    [Paris|Oslo|Rome|Lisbon|Berlin|Dublin|Chicago|Athens|Vienna|Madrid|Cairo|Boston|Zurich|Prague]
  * [Helsinki|Tokyo|Warsaw|Toronto|Naples|Geneva|Lima]
date
    [Monday|Tuesday|Thursday|Friday|Sunday|tomorrow|next week|Friday morning|the 3rd|the 12th|May 9]
  * [Wednesday|Saturday|the 21st|June 30|next month|Monday evening]
on
    on [Monday|Tuesday|Thursday|Friday|Sunday|Friday morning|the 3rd|the 12th|May 9]
    [tomorrow|next week]
  * on [Wednesday|Saturday|the 21st|June 30|Monday evening]
  * [tonight|next month]
time
    [7|8|9|10|11] [am|pm]
    [half past [six|seven]|noon|six o'clock|20:15]
  * [midnight|5:45|quarter to nine|3 pm]
device
    [light|heater|fan|radio|lamp|speaker|humidifier]
  * [heating|television|ventilator]
room
    [kitchen|bedroom|bathroom|living room|hall|office|garage]
  * [nursery|attic|dining room]
song
    [Blue Harbour|Paper Kites|the new Marlow song|Winter Train|Hold the Line Home|Dancing Slowly|Seven Rivers]
    [Golden Hour Again|the last Nora Lind single|Glass Garden|Send Me Home|Stop the Rain]
  * [Silver Fields|the old Tallis tune|Midnight Ferry|Play It Twice|Never Add Up]
playlist
    [running|dinner|party|Sunday|work|road trip|sleep]
  * [study|summer|cooking]
item
    [blue jacket|desk lamp|coffee grinder|backpack|phone case|tent]
    [raincoat|toaster|keyboard|garden hose|yoga mat]
  * [tea kettle|bike helmet|bookshelf|wool scarf|blender]
doctor
    [dentist|eye doctor|cardiologist|physiotherapist|paediatrician|skin doctor|family doctor]
  * [surgeon|allergist|orthodontist]
meeting
    [budget meeting|project review|weekly call|planning session|interview|team lunch|workshop]
  * [strategy talk|status update|board meeting|kick-off]
phone
    [555-0134|0171 234 88|that 0800 number|555-0199|030 4417 22|the number from {city}]
  * [555-0177|0162 900 15|the unknown number]
"""

IRREGULAR = """
buy bought buying, cancel cancelled cancelling, cut cut cutting, drop dropped dropping, find found finding,
let let letting, pay paid paying, plan planned planning, program programmed programming, put put putting,
send sent sending, stop stopped stopping, tell told telling, verify verified verifying
"""
FORMS = ("do", "did", "doing")

SIZES = {"train": 2000, "dev": 600, "test": 1200}
SHARES = {"alone": 0.3, "aside": 0.35, "contrast": 0.35}  # of the texts, by frame
NEIGHBOUR = 0.75  # of the intents mentioned in passing: how many are of the text's own domain
SPEAKING, TYPO, UNPUNCTUATED, SHOUTED = 0.25, 0.3, 0.4, 0.03  # chances of each kind of noise
FILLED = "[um|uh|so|ok so|hello|hi there|hey|well|right] "
POLITE = "[| -|,] [thanks|thank you|if possible|cheers|as soon as you can]"

INFLECTED = {forms.split()[0]: forms.split() for forms in IRREGULAR.split(",")}
GROUP = re.compile(r"\[([^][()]*)]|\(([^][()]*)\)")
SLOT = re.compile(r"\{([^{}]*)}")
VERB = re.compile(r"<(\w+)>")


def parse(grammar: str, held_out: bool) -> Templates:
    """The templates below each heading; those marked with a star only if `held_out`."""
    templates: Templates = {}
    for line in filter(str.strip, grammar.splitlines()):
        if not line.startswith(" "):
            below = templates.setdefault(line, [])
        elif held_out or not line.lstrip().startswith("*"):
            below.append(line.lstrip("* "))
    return templates


def inflect(verb: str, form: str) -> str:
    """`verb` as "do" (cancel), "did" (cancelled, past and participle alike) or "doing" (cancelling)."""
    stem = verb.removesuffix("e")
    regular = [verb, stem + "ed", stem + "ing"]
    return INFLECTED.get(verb, regular)[FORMS.index(form)]


class Speaker:
    """Says things: draws texts from one split's share of the grammar."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.rng = rng
        self.intents = parse(INTENTS, held_out)
        self.frames = parse(FRAMES, held_out)
        self.fillers = parse(FILLERS, held_out)

    def text(self, label: str) -> str:
        """One noisy text that asks for the intent `label`."""
        (frame,) = self.rng.choices(list(SHARES), weights=list(SHARES.values()))
        return self.noisy(self.framed(frame, label, self.other(label)))

    def framed(self, frame: str, label: str, other: str) -> str:
        """A sentence in the given frame that asks for `label` and may mention `other`."""

        def part(match: re.Match[str]) -> str:
            *passing, name = match[1].split()
            if name in self.frames:
                return self.framed(name, label, other)
            return self.clause(other if passing else label, name)

        return SLOT.sub(part, self.drawn(self.frames[frame]))

    def clause(self, label: str, form: str) -> str:
        """An action of the intent in the form "do", "did" or "doing", or with "say" a sentence of its own."""
        fitting = [template for template in self.intents[label] if ("<" in template) == (form in FORMS)]
        phrase = VERB.sub(lambda match: inflect(match[1], form), self.drawn(fitting))
        return self.filled(phrase)

    def filled(self, phrase: str) -> str:
        """The phrase with a filler in every slot, no filler twice."""
        while slot := SLOT.search(phrase):
            filler = self.drawn(self.fillers[slot[1]])
            if filler not in phrase:
                phrase = phrase[: slot.start()] + filler + phrase[slot.end() :]
        return phrase

    def drawn(self, templates: list[str]) -> str:
        """One of the templates, its alternatives and options decided, the innermost first."""
        text = self.rng.choice(templates)
        while group := GROUP.search(text):
            options = ["", group[2]] if group[1] is None else group[1].split("|")
            text = text[: group.start()] + self.rng.choice(options) + text[group.end() :]
        return text

    def other(self, label: str) -> str:
        """Another intent, preferably of the same domain."""
        others = [name for name in self.intents if name != label]
        near = [name for name in others if name.split(".")[0] == label.split(".")[0]]
        return self.rng.choice(near if self.chance(NEIGHBOUR) else others)

    def noisy(self, text: str) -> str:
        """The text as somebody in a hurry would type it."""
        if self.chance(SPEAKING):
            text = self.drawn([FILLED]) + text
        if self.chance(SPEAKING):
            text = text + self.drawn([POLITE])
        text = tidy(text)
        if self.chance(TYPO):
            text = self.mistyped(text)
        if self.chance(UNPUNCTUATED):
            return re.sub(r"(?<!\d)[',.?]", "", text).lower()
        return text.upper() if self.chance(SHOUTED) else text

    def mistyped(self, text: str) -> str:
        """The text with two letters swapped, one dropped or one doubled, inside one longer word."""
        word = self.rng.choice(list(re.finditer(r"[A-Za-z]{4,}", text)))
        at = self.rng.randrange(word.start() + 1, word.end() - 1)
        first, second = text[at], text[at + 1]
        return text[:at] + self.rng.choice([second + first, second, first + first + second]) + text[at + 2 :]

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability


def tidy(text: str) -> str:
    """Without the seams that joined templates leave: stray blanks, doubled marks, small initials."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\?[.,]", "?", re.sub(r" (?=[,.?])", "", text))
    return re.sub(r"(?:^|[.?] )[a-z]", lambda match: match[0].upper(), text)


def generate(
    seed: int, train: int = SIZES["train"], dev: int = SIZES["dev"], test: int = SIZES["test"]
) -> dict[str, list[Row]]:
    """The rows of each split: equally many of every label, give or take one, and no text twice."""
    rng = random.Random(seed)
    told: set[str] = set()
    sizes = {"train": train, "dev": dev, "test": test}
    return {split: rows(Speaker(rng, held_out=split != "train"), size, told) for split, size in sizes.items()}


def rows(speaker: Speaker, size: int, told: set[str]) -> list[Row]:
    """`size` shuffled rows whose texts, case aside, are not among those `told`."""
    labels = islice(cycle(speaker.intents), size)
    made = [{"text": untold(speaker, label, told), "label": label} for label in labels]
    speaker.rng.shuffle(made)
    return made


def untold(speaker: Speaker, label: str, told: set[str]) -> str:
    """A text for `label` that is not among those `told`; it is from then on."""
    while (text := speaker.text(label)).lower() in told:
        pass
    told.add(text.lower())
    return text


def write(
    folder: Path, seed: int, train: int = SIZES["train"], dev: int = SIZES["dev"], test: int = SIZES["test"]
) -> None:
    """Write train.jsonl, dev.jsonl and test.jsonl into `folder`, which is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, made in generate(seed, train, dev, test).items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the demo's synthetic intent corpus.")
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder for the three files")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: 0)")
    for split, size in SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=size, metavar="N", help=f"rows (default: {size})")
    options = parser.parse_args()
    write(options.folder, options.seed, options.train, options.dev, options.test)


if __name__ == "__main__":
    main()
