"""Every instruction that is put after a text, in one place."""

BETWEEN = "\n\n"  # parts passages that stand before the model together
RANK = "\nPlease write a question based on this passage.\nQuestion:"
ASK = (
    "\n\nAnswer the question with the information above, in one or two sentences.\n"
    "Question: {question}"
)
# Of the skill that answers: trained with these very words.
ANSWER = "\n\nAnswer in a few words: {question}"
# Of the skill that ranks; what it says of a passage is the next token, YES or NO.
RELEVANT = "\n\nDoes the text above answer this question?\nQuestion: {question}"
YES, NO = "Yes", "No"
CALL_TOOLS = (
    "You can call functions. To call one, answer with its name and arguments as JSON between "
    "{start} and {end}:\n"
    '{start}{{"name": ..., "arguments": {{...}}}}{end}\n'
    "The functions, one per line:\n"
)
TOOL_RESULT = "Result of {name}: {content}\nAnswer with this result."
