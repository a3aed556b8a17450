/*-------------------------------------------------------------------------
 *
 * field.c
 *	  Merge fields of a list: as read, and as made by us (see field.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "engine.h"
#include "mailchimp_sync.h"

/* fields: an array of merge fields; all: these are all that the list has */
static void
store_fields(McUnit *unit, const cJSON *fields, bool all)
{
	MC_SQL("SELECT mailchimp_sync.fields_seen(f.audience_id, $2, $3, $4, $5, $6, $7, $8) "
		   "FROM mailchimp_sync.inflight f WHERE f.inflight_id = $1",
		   mc_arg_int8(unit->inflight_id), mc_json_column(fields, "tag"),
		   mc_json_column(fields, "merge_id"), mc_json_column(fields, "name"),
		   mc_json_column(fields, "type"), mc_json_column(fields, "required"),
		   mc_json_column(fields, "default_value"), mc_arg_bool(all));
}

static void
field_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;

	if (reply->status >= 400)
		MC_SQL("SELECT mailchimp_sync.field_refused($1, $2, $3)", mc_arg_int8(unit->inflight_id),
			   mc_arg_text(reply->title), mc_arg_text(reply->detail));
	else if (strcmp(unit->phase, "read") == 0)
		/* what it does not name is gone, so what is no page must not pass for an empty one */
		store_fields(unit, mc_json_needed_array(reply->json, "merge_fields"), true);
	else
	{
		/* an array around what the reply owns, which nobody has to free */
		const cJSON one = {.type = cJSON_Array, .child = reply->json};

		(void) mc_json_needed(mc_json_text_arg(reply->json, "tag"), "tag");
		store_fields(unit, &one, false);
	}
}

const McKind mc_field_kind = {.name = "field", .spare = MC_SPARE_BULK, .apply = field_apply};
