/*-------------------------------------------------------------------------
 *
 * gate_trigger.c
 *	  The way into the extension for changes of a public view's rows.
 *
 * INSTEAD OF triggers run as whoever changes the view, so they enter by a gate
 * like the functions do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "gate.h"
#include "mailchimp_sync.h"

PG_FUNCTION_INFO_V1(mc_gate_trigger);

/* Checks the level on what a row belongs to; a row that names nothing is left to the function. */
static void
check_row(const TriggerData *data, HeapTuple row)
{
	const Trigger *trigger = data->tg_trigger;
	McDemand demand = {"view", RelationGetRelationName(data->tg_relation),
					   mc_find_level(trigger->tgargs[0]), MC_ANY};

	if (row == NULL)
		return;
	if (trigger->tgnargs == 4)
	{
		TupleDesc type = RelationGetDescr(data->tg_relation);

		demand.object = SPI_getvalue(row, type, SPI_fnumber(type, trigger->tgargs[3]));
		if (demand.object != NULL)
			demand.scope = mc_find_scope(trigger->tgargs[2]);
	}
	mc_check_level(&demand);
}

typedef struct Change
{
	TriggerData *data;
	HeapTuple result;
} Change;

/*
 * The function gets the rows as jsonb and returns the columns that it has set
 * itself, for RETURNING, or NULL where there was nothing to do.
 */
static void
run_change(void *arg)
{
	Change *change = arg;
	TriggerData *data = change->data;
	bool insert = TRIGGER_FIRED_BY_INSERT(data->tg_event);
	HeapTuple old_row = insert ? NULL : data->tg_trigtuple;
	HeapTuple new_row = insert ? data->tg_trigtuple : data->tg_newtuple;
	TupleDesc type = RelationGetDescr(data->tg_relation);
	McArg rows[2] = {{.type = type->tdtypeid, .isnull = true},
					 {.type = type->tdtypeid, .isnull = true}};
	char *query;

	SPI_connect();
	check_row(data, old_row);
	check_row(data, new_row);
	if (old_row != NULL)
		rows[0] = mc_arg_datum(type->tdtypeid, heap_copy_tuple_as_datum(old_row, type));
	if (new_row != NULL)
		rows[1] = mc_arg_datum(type->tdtypeid, heap_copy_tuple_as_datum(new_row, type));

	query = psprintf("SELECT r.* FROM (SELECT %s.%s($1, to_jsonb($2), to_jsonb($3)) AS set) f,"
					 " jsonb_populate_record(coalesce($3, $2), f.set) r WHERE f.set IS NOT NULL",
					 MC_SCHEMA, quote_identifier(data->tg_trigger->tgargs[1]));
	if (mc_sql_once(query, 3,
					(McArg[]){mc_arg_text(insert	? "INSERT"
										  : new_row ? "UPDATE"
													: "DELETE"),
							  rows[0], rows[1]}) > 0)
		change->result = SPI_copytuple(SPI_tuptable->vals[0]);
	SPI_finish();
}

/*
 * gate_trigger(level, function [, kind, column]): INSTEAD OF a change of a view's
 * row, calls mailchimp_sync.function(_op text, _old jsonb, _new jsonb). The
 * level is needed on the connection, audience or campaign (kind) that the column
 * names, on any connection without these arguments.
 */
Datum
mc_gate_trigger(PG_FUNCTION_ARGS)
{
	Change change = {.data = (TriggerData *) fcinfo->context};

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_INSTEAD(change.data->tg_event) ||
		(change.data->tg_trigger->tgnargs != 2 && change.data->tg_trigger->tgnargs != 4))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("gate_trigger is for INSTEAD OF triggers with 2 or 4 arguments")));
	mc_as_owner(run_change, &change);
	return PointerGetDatum(change.result);
}
