"""Alarms as the state machine keeps them (semantics 10.5-10.9)."""

from collections.abc import Iterable
from typing import cast

from ratifyd import schema
from ratifyd.apply.state import State
from ratifyd.errors import UnknownMethod
from ratifyd.membership import hex_id
from ratifyd.proto.rpc_pb2 import NONE, AlarmMember, AlarmRequest, AlarmResponse, AlarmType


def alarm(state: State, request: AlarmRequest, wanted: bool) -> bytes:
    """Read, raise or clear alarms. Raises UnknownMethod on an action etcd would die of."""
    if request.action == AlarmRequest.GET:
        return _response((member, kind) for member, kind in sorted(state.alarms) if request.alarm in (NONE, kind))
    if request.action == AlarmRequest.ACTIVATE:
        return _activate(state, request)
    if request.action == AlarmRequest.DEACTIVATE:
        return _deactivate(state, request)
    raise UnknownMethod


def _activate(state: State, request: AlarmRequest) -> bytes:
    if request.alarm == NONE:
        return b""
    raised = (request.memberID, request.alarm)
    if raised not in state.alarms:
        state.alarms[raised] = None
        state.buffer.put(schema.ALARM, _key(*raised), b"")
        state.warn("alarm raised", alarm=alarm_name(request.alarm), **{"from": hex_id(request.memberID)})
    return _response([raised])


def _deactivate(state: State, request: AlarmRequest) -> bytes:
    raised = (request.memberID, request.alarm)
    if raised not in state.alarms:
        return b""
    del state.alarms[raised]
    state.buffer.delete(schema.ALARM, _key(*raised))
    state.warn("alarm disarmed", alarm=alarm_name(request.alarm), **{"from": hex_id(request.memberID)})
    return _response([raised])


def _key(member: int, kind: int) -> bytes:
    return AlarmMember(memberID=member, alarm=cast(AlarmType, kind)).SerializeToString()


def alarm_name(kind: int) -> str:
    """etcd's name of an alarm; the number of one it has no name for."""
    return AlarmType.Name(cast(AlarmType, kind)) if kind in AlarmType.values() else str(kind)


def _response(alarms: Iterable[tuple[int, int]]) -> bytes:
    members = [AlarmMember(memberID=member, alarm=cast(AlarmType, kind)) for member, kind in alarms]
    return AlarmResponse(alarms=members).SerializeToString()
