"""Architectures that no Ollama is known to run rightly: refused by name, with the reason, before any weights. Pure.

What llama.cpp computes in another way than its authors is refused as safetensors only (BitNet, PhiMoE, GroveMoE): who
publishes a GGUF of it has chosen that.
"""

from collections.abc import Mapping

_RANKS = "only ranks or classifies texts, and Ollama serves neither"
_RANKING = """
BertForSequenceClassification ModernBertForSequenceClassification Qwen3ForSequenceClassification
RobertaForSequenceClassification XLMRobertaForSequenceClassification
"""
_DIFFUSES = "generates by diffusion, which Ollama's llama.cpp server cannot do"
_DIFFUSING = "DreamModel LLaDAModelLM LLaDAMoEModel LLaDAMoEModelLM RND1"
_DIFFUSING_GGUFS = "dream llada llada-moe rnd1"
"""llama.cpp has a tool of its own for them. On 0.40 its server ends with an assertion when it loads one."""
_ENCODES = "generates from what an encoder has read, and Ollama's llama.cpp server does not run such an encoder"
_ENCODING = """
BartForConditionalGeneration BigBirdPegasusForConditionalGeneration BlenderbotForConditionalGeneration
BlenderbotSmallForConditionalGeneration FSMTForConditionalGeneration LEDForConditionalGeneration
LongT5ForConditionalGeneration M2M100ForConditionalGeneration MBartForConditionalGeneration
MT5ForConditionalGeneration MT5Model MarianMTModel MvpForConditionalGeneration NllbMoeForConditionalGeneration
PLBartForConditionalGeneration PegasusForConditionalGeneration PegasusXForConditionalGeneration
ProphetNetForConditionalGeneration SwitchTransformersForConditionalGeneration T5ForConditionalGeneration
T5Gemma2ForConditionalGeneration T5GemmaForConditionalGeneration T5Model T5WithLMHeadModel
UMT5ForConditionalGeneration UMT5Model
"""
_ENCODING_GGUFS = "t5"
"""Tried on 0.40 with a T5 of llama.cpp's converter: it answers with tokens other than those of transformers."""
_LACKS = "runs in no Ollama up to 0.40: its llama.cpp (b10488) has no such architecture"
_LACKING = """
BailingMoeLinearForCausalLM BailingMoeLinearV2ForCausalLM BailingMoeV2_5ForCausalLM
BioGptForCausalLM BltForCausalLM CTRLLMHeadModel CodeGenForCausalLM CpmAntForCausalLM CwmForCausalLM
DiffLlamaForCausalLM DogeForCausalLM Dots3NoteForCausalLM Dots3NoteForConditionalGeneration Emu3ForCausalLM
FlexOlmoForCausalLM FuyuForCausalLM GPTJForCausalLM GPTNeoForCausalLM GPTNeoXJapaneseForCausalLM
Glm5NextForConditionalGeneration GraniteMoeSWAForCausalLM GraniteSWAForCausalLM HYV4ForCausalLM HeliumForCausalLM
HrmTextForCausalLM JetMoeForCausalLM Lfm3ForCausalLM LongcatFlashForCausalLM MapleForCausalLM
ModernBertDecoderForCausalLM NanoChatForCausalLM OPTForCausalLM OlmoHybridForCausalLM OpenAIGPTLMHeadModel
PersimmonForCausalLM Qwen4ExpForCausalLM Qwen4ExpForConditionalGeneration RecurrentGemmaForCausalLM RwkvForCausalLM
Spark2_5ForCausalLM VaultGemmaForCausalLM XGLMForCausalLM XLNetLMHeadModel Zamba2ForCausalLM ZambaForCausalLM
ZayaForCausalLM xLSTMForCausalLM
"""
"""Names that conversion/*.py of llama.cpp b10488 does not register, and that its src/models has no graph for."""
_CHANGES = "is not what its authors made: llama.cpp computes it with another {}"
_CHANGED: Mapping[str, str] = {
    "Grok1ForCausalLM": "router, which does not limit its logits and makes the experts' weights sum to 1",
    "BitNetForCausalLM": "activation, SiLU instead of the square of ReLU",
    **dict.fromkeys(("PhiMoEForCausalLM", "PhimoeForCausalLM"), "choice and weight of experts, and another norm"),
}
"""bitnet.cpp, phi3.cpp and grok.cpp at b10488, compared with transformers 5.24's BitNetMLP, PhimoeTopKRouter and norms,
and with SGLang's grok.py, which xAI names for Grok 2: grok.cpp reads router_logit_softcapping and does not use it."""
_ABORTS = "runs in no Ollama up to 0.40: its llama.cpp (b10488) aborts at the first token"
_ABORTING = "MiniMaxText01ForCausalLM MiniMaxM1ForCausalLM"
_ABORTING_GGUFS = "minimax-01"
"""`GGML_ASSERT(i1 >= 0 && i1 < ne1)`, tried on 0.40 and in b10488 itself with a GGUF of llama.cpp's converter."""
_SWAPS = "is not what its authors made: llama.cpp feeds its small experts with the output of the large ones"
_SWAPPED = "GroveMoeForCausalLM"
"""grovemoe.cpp at b10488 and b11434. The authors' small experts get the layer's input; on 0.40 the logprobs are those
of this difference."""
_NEEDS_FLASH = "is what its authors made only with flash attention, and the proxy cannot see whether Ollama uses that"
_NEEDING_FLASH = """
MiniMaxM3SparseForCausalLM MiniMaxM3SparseForConditionalGeneration MiniMaxM3VLForCausalLM
MiniMaxM3VLForConditionalGeneration
"""
"""Its layers attend to 16 blocks of 128 tokens. Without flash attention minimax-m3.cpp (b10488) attends to all tokens,
and says so in its log only. Ollama turns it off for older graphics cards and by OLLAMA_FLASH_ATTENTION=0
(llm/llama_server.go at 0.40). At b10240 the blocks were of places in the cache, not of positions."""
_JOINS_CASES = "gets other tokens than from its authors: llama.cpp does not split words before a capital letter"
_JOINED_CASES = "YoutuForCausalLM YoutuVLForConditionalGeneration"
"""Its rule has \\p{Lu} and \\p{Ll}, which are both all letters in unicode.cpp of b10488, even in ASCII."""
_HAS_TASKS = "has an adapter for each task, and Ollama embeds without tasks"
_WITH_TASKS = "JinaEmbeddingsV3Model JinaEmbeddingsV5Model"
"""llama.cpp's converter (b11434, bert.py) writes the adapters as files of their own, or leaves them out."""
_LACKS_TOKENIZER = "has no tokenizer in its repositories: it uses that of Llama 2"
_WITHOUT_TOKENIZER = "OpenELMForCausalLM"
_IS_UNCOMPARED = "is not converted: {} could not be compared with llama.cpp's"
_WITH_UNCOMPARED_CODE = """
BitnetForCausalLM CodeShellForCausalLM GPTRefactForCausalLM JAISLMHeadModel MambaLMHeadModel MiMoV2ForCausalLM
PLMForCausalLM Rwkv7ForCausalLM
"""
_UNCOMPARED: Mapping[str, str] = {
    **dict.fromkeys(("AfmoeForCausalLM", "ChameleonForCausalLM", "ChameleonForConditionalGeneration"), "its tokenizer"),
    **dict.fromkeys(("Grok1ModelForCausalLM", "GrokForCausalLM"), "its authors' code, which is written for JAX,"),
    **dict.fromkeys(_WITH_UNCOMPARED_CODE.split(), "its authors' code"),
    **dict.fromkeys(("MT5EncoderModel", "T5EncoderModel", "UMT5EncoderModel"), "its vectors"),
    **dict.fromkeys(("RWKV6Qwen2ForCausalLM", "RwkvHybridForCausalLM"), "the code of its repositories"),
}
"""For AFMoE (Trinity) llama.cpp splits digits with code of its own, and CJK and Thai by ranges (unicode.cpp and
llama-vocab.cpp, b10488). The rules of arcee-ai's tokenizer.json, which these are to stand for, could not be read.
Chameleon's repositories need a permission, and llama.cpp's converter gives all heads the norm of the first one. Grok 1
has two names in repositories of others; xAI published it for JAX alone. No encoder of T5 was tried on a server. Jais 1,
CodeShell, Refact, 1bitLLM's BitNet, MiMo V2 (not Flash), and Mamba and RWKV 7 under other names were not tried yet. Of
the others no code was found whose result a GGUF could be held against."""
_DRAFTS = "drafts tokens for another model, and answers nothing by itself"
_DRAFTING_GGUFS = "dflash eagle3 gemma4-assistant"
"""llama.cpp makes no context for one without its model (llama-context.cpp at b10488)."""

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(_RANKING.split(), _RANKS),
    **dict.fromkeys(_DIFFUSING.split(), _DIFFUSES),
    **dict.fromkeys(_ENCODING.split(), _ENCODES),
    **dict.fromkeys(_LACKING.split(), _LACKS),
    **dict.fromkeys(_ABORTING.split(), _ABORTS),
    **dict.fromkeys(_SWAPPED.split(), _SWAPS),
    **dict.fromkeys(_NEEDING_FLASH.split(), _NEEDS_FLASH),
    **dict.fromkeys(_JOINED_CASES.split(), _JOINS_CASES),
    **dict.fromkeys(_WITH_TASKS.split(), _HAS_TASKS),
    **dict.fromkeys(_WITHOUT_TOKENIZER.split(), _LACKS_TOKENIZER),
    **{name: _IS_UNCOMPARED.format(what) for name, what in _UNCOMPARED.items()},
    **{name: _CHANGES.format(what) for name, what in _CHANGED.items()},
}
"""By the first of `architectures` in config.json: what to say after the name."""
REFUSED_GGUFS: Mapping[str, str] = {
    **dict.fromkeys(_DIFFUSING_GGUFS.split(), _DIFFUSES),
    **dict.fromkeys(_ENCODING_GGUFS.split(), _ENCODES),
    **dict.fromkeys(_ABORTING_GGUFS.split(), _ABORTS),
    **dict.fromkeys(_DRAFTING_GGUFS.split(), _DRAFTS),
}
"""By `general.architecture` of a GGUF: what to say after it."""
