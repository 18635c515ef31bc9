"""A head on features from which the target's mean is taken away: its heads alone are not it."""

from clipjax.adapt import finetune


def make_method(backbone, classes, *, head):
    made = finetune.make_method(backbone, classes, head=head)

    def predict(params, inputs, texts):
        return made.predict(params, inputs - params["known"], texts)

    start = lambda data, texts, own: {**own, "known": data["target"]["inputs"].mean(axis=0)}
    return made._replace(
        predict=predict, start=start, reads=("source", "target"), constants=("known",)
    )
