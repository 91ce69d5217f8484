"""The families of models that the proxy converts, one declaration each. Pure.

A `Family` (family.py) has rules (rules.py) that turn the tensors of the weights into those of a GGUF, writers for the
metadata, and the values of config.json that llama.cpp cannot run. Its facts are those of llama.cpp's converter at
b11434. `defaults` are those of transformers 4.57 and 5.24, or of 5.24 where the two differ.

CONTRIBUTING.md says how to add one. `refused.py` has the architectures that no Ollama runs, with the reasons.
"""

from collections.abc import Mapping

from proxy.gguf.families.apertus import APERTUS
from proxy.gguf.families.arctic import ARCTIC
from proxy.gguf.families.baichuan import BAICHUAN_7B, BAICHUAN_13B
from proxy.gguf.families.bailingmoe import BAILING_MOE, BAILING_MOE2, SARVAM_MOE
from proxy.gguf.families.bailingmoe3 import BAILING_MOE3
from proxy.gguf.families.bamba import BAMBA
from proxy.gguf.families.bert import BERT, DISTIL_BERT, ROBERTA, XLM_ROBERTA
from proxy.gguf.families.bloom import BLOOM
from proxy.gguf.families.chatglm import CHATGLM
from proxy.gguf.families.cohere import COHERE, COHERE2, COHERE2_MOE
from proxy.gguf.families.dbrx import DBRX
from proxy.gguf.families.deci import DECI
from proxy.gguf.families.deepseek import DEEPSEEK, DEEPSEEK2, DEEPSEEK3
from proxy.gguf.families.deepseek4 import DEEPSEEK4
from proxy.gguf.families.deepseek_sparse import DEEPSEEK32, GLM_DSA
from proxy.gguf.families.dots import DOTS1
from proxy.gguf.families.ernie import ERNIE4_5, ERNIE4_5_MOE
from proxy.gguf.families.eurobert import EURO_BERT
from proxy.gguf.families.exaone import EXAONE, EXAONE4, EXAONE_MOE
from proxy.gguf.families.falcon import FALCON, REFINED_WEB
from proxy.gguf.families.falcon_h1 import FALCON_H1
from proxy.gguf.families.family import Family
from proxy.gguf.families.gemma import GEMMA, GEMMA2, GEMMA3, GEMMA3_MULTIMODAL, GEMMA_EMBEDDING
from proxy.gguf.families.gemma3n import GEMMA3N, GEMMA3N_MULTIMODAL
from proxy.gguf.families.gemma4 import GEMMA4, GEMMA4_MULTIMODAL
from proxy.gguf.families.glm import GLM, GLM4, GLM4_MOE, GLM4_MOE_LITE, SOLAR_OPEN
from proxy.gguf.families.gpt2 import GPT2, STARCODER
from proxy.gguf.families.gpt_neox import GPT_NEOX
from proxy.gguf.families.gpt_oss import GPT_OSS
from proxy.gguf.families.granite import GRANITE, GRANITE_HYBRID, GRANITE_MOE
from proxy.gguf.families.hunyuan import HUNYUAN, HUNYUAN_MOE
from proxy.gguf.families.hy_v3 import HY_V3
from proxy.gguf.families.internlm2 import INTERNLM2
from proxy.gguf.families.internlm3 import INTERNLM3
from proxy.gguf.families.internvl import INTERNVL, INTERNVL_CHAT
from proxy.gguf.families.jais2 import JAIS2
from proxy.gguf.families.jamba import JAMBA
from proxy.gguf.families.jina_bert import JINA_BERT
from proxy.gguf.families.kimi_linear import KIMI_LINEAR
from proxy.gguf.families.laguna import LAGUNA
from proxy.gguf.families.lfm2 import LFM2, LFM2_MOE, LFM2_VISION
from proxy.gguf.families.llama import ARCEE, LLAMA, LLAMA_EMBED, MISTRAL, MIXTRAL, SMOLLM3, VOXTRAL
from proxy.gguf.families.llama4 import LLAMA4, LLAMA4_MULTIMODAL
from proxy.gguf.families.maincoder import MAINCODER
from proxy.gguf.families.mamba import MAMBA
from proxy.gguf.families.mamba2 import MAMBA2
from proxy.gguf.families.mellum import MELLUM
from proxy.gguf.families.mimo_v2 import MIMO_V2_FLASH
from proxy.gguf.families.minicpm import MINICPM
from proxy.gguf.families.minicpm3 import MINICPM3
from proxy.gguf.families.minimax import MINIMAX_M2
from proxy.gguf.families.mistral3 import MINISTRAL3, MISTRAL3
from proxy.gguf.families.modernbert import MODERN_BERT
from proxy.gguf.families.mpt import MPT
from proxy.gguf.families.nanbeige import NANBEIGE
from proxy.gguf.families.nemotron import NEMOTRON
from proxy.gguf.families.nemotron_h import NEMOTRON_H
from proxy.gguf.families.neo_bert import NEO_BERT
from proxy.gguf.families.nomic_bert import NOMIC_BERT, NOMIC_BERT_MOE
from proxy.gguf.families.olmo import OLMO, OLMO2, OLMO3, OLMOE
from proxy.gguf.families.orion import ORION
from proxy.gguf.families.paddleocr import PADDLEOCR
from proxy.gguf.families.pangu import PANGU_EMBEDDED
from proxy.gguf.families.phi import PHI2, PHI3
from proxy.gguf.families.plamo import PLAMO, PLAMO2, PLAMO3
from proxy.gguf.families.qwen import QWEN2, QWEN2_AUDIO, QWEN2_MOE, QWEN3, QWEN3_MOE
from proxy.gguf.families.qwen1 import QWEN1
from proxy.gguf.families.qwen3_next import QWEN3_5, QWEN3_5_MOE, QWEN3_5_MOE_MULTIMODAL, QWEN3_5_MULTIMODAL, QWEN3_NEXT
from proxy.gguf.families.qwen_vl import QWEN2_VL, QWEN3_VL, QWEN3_VL_MOE
from proxy.gguf.families.rwkv6 import RWKV6
from proxy.gguf.families.rwkv7 import RWKV7
from proxy.gguf.families.seed_oss import SEED_OSS
from proxy.gguf.families.smallthinker import SMALL_THINKER
from proxy.gguf.families.smolvlm import SMOLVLM
from proxy.gguf.families.stablelm import STABLELM, STABLELM_EPOCH
from proxy.gguf.families.starcoder2 import STARCODER2
from proxy.gguf.families.step35 import STEP35
from proxy.gguf.families.talkie import TALKIE
from proxy.gguf.families.xverse import XVERSE

FAMILIES: Mapping[str, Family] = {
    "ApertusForCausalLM": APERTUS,
    "ArceeForCausalLM": ARCEE,
    "ArcticForCausalLM": ARCTIC,
    "BaiChuanForCausalLM": BAICHUAN_7B,
    "BaichuanForCausalLM": BAICHUAN_13B,
    "BailingMoeForCausalLM": BAILING_MOE,
    "BailingMoeV2ForCausalLM": BAILING_MOE2,
    "BailingMoeV3ForCausalLM": BAILING_MOE3,
    "BambaForCausalLM": BAMBA,
    "BertModel": BERT,
    "BloomForCausalLM": BLOOM,
    "CamembertModel": XLM_ROBERTA,
    "ChatGLMForConditionalGeneration": CHATGLM,
    "ChatGLMModel": CHATGLM,
    "Cohere2ForCausalLM": COHERE2,
    "Cohere2MoeForCausalLM": COHERE2_MOE,
    "CohereForCausalLM": COHERE,
    "DbrxForCausalLM": DBRX,
    "DeciLMForCausalLM": DECI,
    "DeepseekForCausalLM": DEEPSEEK,
    "DeepseekV2ForCausalLM": DEEPSEEK2,
    "DeepseekV32ForCausalLM": DEEPSEEK32,
    "DeepseekV4ForCausalLM": DEEPSEEK4,
    "DeepseekV3ForCausalLM": DEEPSEEK3,
    "DistilBertModel": DISTIL_BERT,
    "Dots1ForCausalLM": DOTS1,
    "Ernie4_5_ForCausalLM": ERNIE4_5,
    "Ernie4_5_MoeForCausalLM": ERNIE4_5_MOE,
    "Ernie4_5ForCausalLM": ERNIE4_5,
    "EuroBertModel": EURO_BERT,
    "Exaone4ForCausalLM": EXAONE4,
    "ExaoneForCausalLM": EXAONE,
    "ExaoneMoeForCausalLM": EXAONE_MOE,
    "ExaoneMoEForCausalLM": EXAONE_MOE,
    "FalconForCausalLM": FALCON,
    "FalconH1ForCausalLM": FALCON_H1,
    "FalconMambaForCausalLM": MAMBA,
    "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3ForConditionalGeneration": GEMMA3_MULTIMODAL,
    "Gemma3nForCausalLM": GEMMA3N,
    "Gemma3nForConditionalGeneration": GEMMA3N_MULTIMODAL,
    "Gemma3TextModel": GEMMA_EMBEDDING,
    "Gemma4ForCausalLM": GEMMA4,
    "Gemma4ForConditionalGeneration": GEMMA4_MULTIMODAL,
    "GemmaForCausalLM": GEMMA,
    "Glm4ForCausalLM": GLM4,
    "Glm4MoeForCausalLM": GLM4_MOE,
    "Glm4MoeLiteForCausalLM": GLM4_MOE_LITE,
    "GlmForCausalLM": GLM,
    "GlmMoeDsaForCausalLM": GLM_DSA,
    "GPT2LMHeadModel": GPT2,
    "GPTBigCodeForCausalLM": STARCODER,
    "GPTNeoXForCausalLM": GPT_NEOX,
    "GptOssForCausalLM": GPT_OSS,
    "GraniteForCausalLM": GRANITE,
    "GraniteMoeForCausalLM": GRANITE_MOE,
    "GraniteMoeHybridForCausalLM": GRANITE_HYBRID,
    "GraniteMoeSharedForCausalLM": GRANITE_MOE,
    "HunYuanDenseV1ForCausalLM": HUNYUAN,
    "HunYuanMoEV1ForCausalLM": HUNYUAN_MOE,
    "HYV3ForCausalLM": HY_V3,
    "Idefics3ForConditionalGeneration": SMOLVLM,
    "InternLM2ForCausalLM": INTERNLM2,
    "InternLM3ForCausalLM": INTERNLM3,
    "InternVLChatModel": INTERNVL_CHAT,
    "InternVLForConditionalGeneration": INTERNVL,
    "Jais2ForCausalLM": JAIS2,
    "JambaForCausalLM": JAMBA,
    "JinaBertForMaskedLM": JINA_BERT,
    "JinaBertModel": JINA_BERT,
    "KimiLinearForCausalLM": KIMI_LINEAR,
    "LagunaForCausalLM": LAGUNA,
    "LFM2ForCausalLM": LFM2,
    "Lfm2ForCausalLM": LFM2,
    "Lfm2MoeForCausalLM": LFM2_MOE,
    "Lfm2VlForConditionalGeneration": LFM2_VISION,
    "Llama4ForCausalLM": LLAMA4,
    "Llama4ForConditionalGeneration": LLAMA4_MULTIMODAL,
    "LlamaBidirectionalModel": LLAMA_EMBED,
    "LlamaForCausalLM": LLAMA,
    "LlamaModel": LLAMA,
    "MaincoderForCausalLM": MAINCODER,
    "Mamba2ForCausalLM": MAMBA2,
    "MambaForCausalLM": MAMBA,
    "MellumForCausalLM": MELLUM,
    "MiMoV2FlashForCausalLM": MIMO_V2_FLASH,
    "MiniCPM3ForCausalLM": MINICPM3,
    "MiniCPMForCausalLM": MINICPM,
    "MiniMaxM2ForCausalLM": MINIMAX_M2,
    "Ministral3ForCausalLM": MINISTRAL3,
    "MinistralForCausalLM": MISTRAL,
    "Mistral3ForConditionalGeneration": MISTRAL3,
    "MistralForCausalLM": MISTRAL,
    "MistralModel": MISTRAL,
    "MixtralForCausalLM": MIXTRAL,
    "ModernBertModel": MODERN_BERT,
    "MPTForCausalLM": MPT,
    "NanbeigeForCausalLM": NANBEIGE,
    "NemotronForCausalLM": NEMOTRON,
    "NemotronHForCausalLM": NEMOTRON_H,
    "NeoBERT": NEO_BERT,
    "NomicBertModel": NOMIC_BERT,
    "NomicBertMoEModel": NOMIC_BERT_MOE,
    "Olmo2ForCausalLM": OLMO2,
    "Olmo3ForCausalLM": OLMO3,
    "OlmoeForCausalLM": OLMOE,
    "OlmoForCausalLM": OLMO,
    "OrionForCausalLM": ORION,
    "PaddleOCRVLForConditionalGeneration": PADDLEOCR,
    "PanguEmbeddedForCausalLM": PANGU_EMBEDDED,
    "Phi3ForCausalLM": PHI3,
    "PhiForCausalLM": PHI2,
    "Plamo2ForCausalLM": PLAMO2,
    "PLaMo2ForCausalLM": PLAMO2,
    "Plamo3ForCausalLM": PLAMO3,
    "PLaMo3ForCausalLM": PLAMO3,
    "PlamoForCausalLM": PLAMO,
    "Qwen2AudioForConditionalGeneration": QWEN2_AUDIO,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen2_5_VLForConditionalGeneration": QWEN2_VL,
    "Qwen2Model": QWEN2,
    "Qwen2MoeForCausalLM": QWEN2_MOE,
    "Qwen2VLForConditionalGeneration": QWEN2_VL,
    "Qwen3_5ForCausalLM": QWEN3_5,
    "Qwen3_5ForConditionalGeneration": QWEN3_5_MULTIMODAL,
    "Qwen3_5MoeForCausalLM": QWEN3_5_MOE,
    "Qwen3_5MoeForConditionalGeneration": QWEN3_5_MOE_MULTIMODAL,
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3Model": QWEN3,
    "Qwen3MoeForCausalLM": QWEN3_MOE,
    "Qwen3NextForCausalLM": QWEN3_NEXT,
    "Qwen3VLForConditionalGeneration": QWEN3_VL,
    "Qwen3VLMoeForConditionalGeneration": QWEN3_VL_MOE,
    "QWenLMHeadModel": QWEN1,
    "RobertaModel": ROBERTA,
    "RWForCausalLM": REFINED_WEB,
    "Rwkv6ForCausalLM": RWKV6,
    "RWKV7ForCausalLM": RWKV7,
    "SarvamMoEForCausalLM": SARVAM_MOE,
    "SeedOssForCausalLM": SEED_OSS,
    "SmallThinkerForCausalLM": SMALL_THINKER,
    "SmolLM3ForCausalLM": SMOLLM3,
    "SmolVLMForConditionalGeneration": SMOLVLM,
    "SolarOpenForCausalLM": SOLAR_OPEN,
    "StableLMEpochForCausalLM": STABLELM_EPOCH,
    "StableLmForCausalLM": STABLELM,
    "Starcoder2ForCausalLM": STARCODER2,
    "Step3p5ForCausalLM": STEP35,
    "TalkieForCausalLM": TALKIE,
    "XLMRobertaModel": XLM_ROBERTA,
    "VoxtralForConditionalGeneration": VOXTRAL,
    "XverseForCausalLM": XVERSE,
}
"""By the first of `architectures` in config.json."""
