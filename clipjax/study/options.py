"""What the options of losses mean, in the words of `--help` and of the documentation.

By name; as "loss.name" where a loss gives a common name a meaning of its own.
"""

OPTIONS = {
    # of most
    "templates": "of a text classifier, in training: all prompts of a class, or class: one of them",
    "label_smoothing": "of the class loss: the share that all classes divide",
    "weight": "factor on the term that is added to the class loss",
    "source_weight": "factor on the class loss of the source",
    "joined": "both domains as one batch: faster, more memory; None: where features are cached",
    "match": "how the source is mapped onto the target: coral, standardise, centre or none",
    "tau": "how much of the target's mean prediction debiasing takes away; 0: none",
    "shrink": "added to the diagonal of covariances, as a share of their mean variance",
    "strength": "scikit-learn's C: larger follows the source closer",
    "strengths": "values of scikit-learn's C, of which the source's validation images choose one",
    "pseudo_weight": "factor on the loss of pseudo-labels",
    # dann, cdan, mcd
    "schedule": "of lambda over the run: ganin, linear or constant",
    "lam_max": "largest lambda: how strongly the domain loss is reversed",
    "gamma": "steepness of schedule=ganin",
    "start": "share of the run before lambda rises from 0",
    "domain_weight": "factor on the domain loss; 0: none",
    "penalty": "gamma of the gradient penalty on the discriminator; 0: none",
    "spectral": "the discriminator's layers are divided by their spectral norms",
    "entropy": "CDAN+E: sure examples count more; False is CDAN",
    "randomized": "width of the randomised map, for many features and classes; 0: all products",
    # flyp, cite, clipood, and terms that any method by texts can have
    "denominator": "of a pair: diagonal (all), exclude (not others of the class), negatives, soft",
    "alignment_weight": "factor on the class loss of alignment; 0: none",
    "alignment": "what classifies images in training: a table that starts at the texts, or text",
    "alignment_scale": "factor on similarities with it; 0: CLIP's own, 1: as the paper prints it",
    "contrastive_weight": "factor on the contrastive loss of images and their classes' texts",
    "contrastive_denominator": "exclude (the pair, other classes), negatives, diagonal or soft",
    "contrastive_scale": "factor on its similarities; 0: CLIP's own, 1: as the paper prints it",
    "distill_over": "the texts whose similarities are distilled: batch or classes",
    "distill_direction": "student_teacher is KL(student || teacher), as printed; teacher_student",
    "distill_scale": "factor on these similarities; 0: CLIP's own",
    "margin": "of similarity, between texts at a right angle",
    # finetune
    "diversity_weight": "factor on the loss that draws an ensemble's members apart",
    "diversity_margin": "spread of the members' logits from which they are left alone",
    # blend, debias, stata
    "kind": "of the head: logistic or gda",
    "blend.weight": "of the head beside debiased zero-shot; None: chosen without target labels",
    "folds": "parts of the source, each held out once to choose the weight",
    "others": "further values of tau, each a variant",
    "alpha": "images that a text weighs as much as",
    "stata.temperature": "of the log densities",
    "steps": "rounds",
    "stata.neighbours": "target images that each is drawn to, 3 in TransCLIP; 0: none",
    "stata.source_weight": "weight of a source image, in target images",
    "stata.anchor": "text, a covariance a class, or shared, one for all",
    # prompts
    "sets": "the prompt sets that compete: of clipjax's, or templates with {}",
    "take": "chosen, the best set by a label-free score, or texts or logits: means of all",
    # cmkd, shot, distill, fixmatch
    "gini_weight": "l1: factor on the class-balanced impurity of the head's answers",
    "text_weight": "l2: factor on the distance to the texts' answers",
    "text_gini_weight": "l3: factor on the impurity of the texts' answers",
    "anchor": "factor on the distance to the zero-shot answers",
    "encoder_free": "the texts' answers are of the encoder as it trains; default: where it trains",
    "entropy_weight": "factor on the entropy of each answer",
    "spread_weight": "factor on the entropy of the mean answer",
    "calibration": "of the teacher: likelihood, confidence or none",
    "confidence": "mean largest probability that calibration=confidence aims at",
    "distill_weight": "factor on the divergence from the similarities of the encoder as it came",
    "distill.distill_weight": "factor on the loss of the teacher's answers",
    "debias": "how much of the teacher's mean prediction is taken away; 0: none",
    "threshold": "probability from which an answer is a pseudo-label",
    "teacher": "who gives pseudo-labels: zero_shot, head or both",
    "noise": "of features, the strong view where embeddings are cached",
    # prototypes, protonet, maml
    "prototypes.temperature": "factor on squared distances; 0: CLIP's own scale",
    "protonet.temperature": "factor on squared distances, 1 is the paper's; 0: CLIP's own scale",
    "memory": "source images of each class by which it answers for all classes",
    "inner": "what adapts to a task: classifier (ANIL), or all, the adapter too (MAML)",
    "maml.steps": "gradient steps on a task's support set",
    "rate": "of these steps",
    "first_order": "take the gradients of these steps as constants",
    # coop, kgcoop, cocoop, maple, promptsrc
    "context": "learned vectors of a text; 0: as many as words, without words 16",
    "words": "whose embeddings the vectors start from; none: random ones",
    "position": "of the class name among the vectors: end, middle or front",
    "per_class": "vectors of their own for each class (CSC), which name no other class",
    "chunk": "texts encoded at once; more are encoded by turns, and again in the backward pass",
    "tokens": "learned tokens of each text, in each tower; the first of words",
    "depth": "blocks of each tower that learned tokens are an input of; 1: the first alone",
    "text_anchor": "factor on the distance of class texts to those of zero-shot",
    "image_anchor": "factor on the distance of image embeddings to the encoder's as it came",
    "logit_anchor": "factor on the divergence of answers from zero-shot's",
    "knowledge_weight": "factor on the distance of class texts to those of zero-shot",
    # tip, tip_f, clip_adapter, gda_few_shot, lp_plus, probe
    "ratios": "factors on what the cache adds; (): those of the grid",
    "sharpnesses": "how fast the cache forgets with distance; (): those of the grid",
    "largest": "upper ends of the grid, of sharpness and ratio",
    "tip.steps": "numbers of the grid, of sharpnesses and ratios",
    "tip_f.steps": "numbers of the grid, of sharpnesses and ratios",
    "ratio": "share of the adapter's output in the feature, 0 to 1",
    "reduction": "the bottleneck is the width divided by it",
    "alphas": "factors on the discriminant beside the texts, chosen by validation images",
    "neighbours": "features that a class without images takes of others; 0: none, nor such classes",
    "copies": "how often the text of such a class counts beside them",
    "iterations": "full-batch steps",
    "interval": "steps of the weights to one of the texts' factors",
    "momentum": "of the weights",
    "accumulates": "sum the gradient of the texts' factors over the run, as the published code",
    "rounds": "of bisection after the grid of strengths; 0: none, 8: CoOp's",
    # lora
    "rank": "of the factors beside a projection",
    "lora.strength": "factor on what the factors add, the paper's alpha",
    "scaling": "of strength: rs (by the root of the rank) or standard (by the rank)",
    "dropout": "share of the inputs of a branch that training drops",
    "tower": "which has factors: both, image or text",
    "projections": "of attention that have factors: q_proj, k_proj, v_proj, out_proj",
    # coral, mmd, mcc, afn
    "means": "compare means, too, as DomainBed does",
    "on": "what is compared: features or logits",
    "joint": "of features and answers together: JAN",
    "widths": "of the kernels, as multiples of the median distance",
    "temperature": "of the answers that are compared",
    "delta": "by how much each step enlarges the norm of a feature",
}


# Of clipjax.model.heads.Heads.
HEADS = {
    "adapter": "widths of the layers that all heads share; None leaves features as they are",
    "classifier": "hidden widths of the class head; (): a linear one",
    "discriminator": "hidden widths of the domain head; None makes none",
    "dropout": "share of the features that training drops",
    "start": "of a linear class head on bare features: zero_shot, random, or logistic (LP-FT)",
    "class_bias": "biases in a linear class head",
    "members": "class heads side by side, an ensemble",
    "text": "CLIP's own text tower classifies, and trains",
    "num_domains": "domains to tell apart: sources and target",
}


def meaning(loss: str, option: str) -> str:
    """Return what an option of a loss means; "" for one that clipjax does not have.

    >>> meaning("dann", "gamma"), meaning("stata", "anchor")
    ('steepness of schedule=ganin', 'text, a covariance a class, or shared, one for all')
    """
    return OPTIONS.get(f"{loss}.{option}", OPTIONS.get(option, ""))
