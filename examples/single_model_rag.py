"""A question about your own text, answered with its source by one model loaded once."""

from gem_rag import Document, GemModel, GemRAG

model = GemModel.from_pretrained()
rag = GemRAG(model)
rag.add(
    [
        Document("The warranty of the Zephyr kettle is seven years.", "kettle.md"),
        Document("The Zephyr toaster comes in red and in grey.", "toaster.md"),
    ]
)
answer = rag.answer("How long is the warranty of the Zephyr kettle?")
print(answer.answer)
print(answer.citations[0].source, f"rank score {answer.citations[0].rank_score:.2f}")
