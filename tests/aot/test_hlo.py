"""Collectives read from HLO text: every spelling that XLA uses, each operation once."""

from clipjax.aot.hlo import Collective, collectives, totals

SYNCHRONOUS = """
HloModule jit_step, is_scheduled=true, num_partitions=8

ENTRY %main.1 (a: f32[1024,512], b: f32[512]) -> (f32[1024,512], f32[512]) {
  %a = f32[1024,512]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = (f32[1024,512]{1,0:T(8,128)}, f32[512]{0:T(512)}) all-reduce(%a, %b), \
channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add
  %gather = bf16[64,128]{1,0} all-gather(%c), channel_id=2, replica_groups=[2,4]<=[8]
  %scatter = f32[16,128]{1,0} reduce-scatter(%d), channel_id=3, replica_groups={}, to_apply=%add
  %permute = u8[100]{0} collective-permute(%e), channel_id=4, source_target_pairs={{0,1},{1,0}}
  %get = f32[512]{0} get-tuple-element(%all-reduce.1), index=1
  ROOT %tuple = (f32[1024,512], f32[512]) tuple(%get, %get)
}
"""

ASYNCHRONOUS = """
ENTRY %main {
  %ag-start = (bf16[32,8]{1,0}, bf16[128,8]{1,0}) all-gather-start(%p), channel_id=1, \
replica_groups={{0,1,2,3}}, dimensions={0}
  %ag-done = bf16[128,8]{1,0} all-gather-done(%ag-start)
  %ar-start = f32[10]{0} all-reduce-start(%q), channel_id=2, replica_groups={{0,1,2,3}}
  %ar-done = f32[10]{0} all-reduce-done(%ar-start)
  %cp-start = (f32[7]{0}, f32[7]{0}, u32[], u32[]) collective-permute-start(%r), channel_id=3
  %cp-done = f32[7]{0} collective-permute-done(%cp-start)
}
"""

# As the TPU's compiler writes them: one gather in three fusions, a scatter that is named a reduce.
FUSED = """
%fused_computation.13 (p: bf16[256,512]) -> (bf16[256,512], bf16[1024,512]) {
  %all-gather.7 = bf16[1024,512]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=2, \
replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, \
dimensions={0}, use_global_device_ids=true
  ROOT %custom-call.1 = (bf16[256,512]) custom-call(%all-gather.7)
}
%fused_computation.15 (p: bf16[256,512]) -> bf16[1024,512] {
  %all-gather.11 = bf16[1024,512]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=2, \
replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}
}
%all-reduce-scatter.2 (a: f32[1024,512]) -> f32[256,512] {
  %all-reduce.7 = f32[1024,512]{1,0} all-reduce(%a), channel_id=1, replica_groups=[2,4]<=[8]
}
ENTRY %main (p: bf16[256,512]) -> f32[256,512] {
  %fusion.11 = f32[256,512]{1,0} fusion(%fusion.2), kind=kCustom, calls=%all-reduce-scatter.2
}
"""


def test_synchronous_collectives_of_every_kind():
    assert collectives(SYNCHRONOUS, 8) == [
        Collective("all-reduce", (1024 * 512 + 512) * 4, 4),  # both elements of the tuple
        Collective("all-gather", 64 * 128 * 2, 4),
        Collective("reduce-scatter", 8 * 16 * 128 * 4, 8),  # before it is scattered, among all
        Collective("collective-permute", 100, 8),
    ]


def test_asynchronous_pairs_count_once():
    assert collectives(ASYNCHRONOUS, 4) == [
        Collective("all-gather", 128 * 8 * 2, 4),  # what is gathered, not what it is gathered from
        Collective("all-reduce", 10 * 4, 4),
        Collective("collective-permute", 7 * 4, 4),
    ]


def test_fusions_of_the_tpu_count_once_and_by_what_they_do():
    assert collectives(FUSED, 8) == [
        Collective("all-gather", 1024 * 512 * 2, 4),
        Collective("reduce-scatter", 1024 * 512 * 4, 4),
    ]


def test_totals_add_up_by_kind():
    found = [Collective("all-reduce", 100, 2), Collective("all-reduce", 300, 4)]
    assert totals(found) == {"all-reduce": (2, 400, 100.0 + 450.0)}


def test_no_collectives_in_a_program_of_one_device():
    text = "ENTRY %main (a: f32[8]) -> f32[8] {\n  ROOT %b = f32[8] negate(%a)\n}"
    assert collectives(text, 1) == []
