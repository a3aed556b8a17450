/*-------------------------------------------------------------------------
 *
 * refresh.c
 *	  A page of what an account has, fetched by the engine (see refresh.sql).
 *
 * What there is to ask for and how it is stored is in account.c; which page is the next is a row, so
 * a crash loses an answer, and the page is asked for again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "account.h"
#include "engine.h"
#include "mailchimp_sync.h"

static void
account_answered(const McUnit *unit)
{
	const cJSON *json = unit->reply->json;

	MC_SQL("SELECT mailchimp_sync.account_fetched($1, $2, $3, $4, $5)",
		   mc_arg_text(unit->connection),
		   mc_json_needed(mc_json_text_arg(json, "account_id"), "account_id"),
		   mc_json_text_arg(json, "account_name"), mc_json_text_arg(json, "role"),
		   mc_json_text_arg(json, "pricing_plan_type"));
}

static void
part_answered(const McUnit *unit, const char *list_id, McArg offset)
{
	McAccountPart part = mc_account_part(unit->phase);
	/* what is not named is gone, so what is no page must not pass for an empty one */
	const cJSON *rows = mc_account_rows(part, unit->reply->json);

	mc_account_store_rows(part, unit->connection, list_id, rows);
	MC_SQL("SELECT mailchimp_sync.page_fetched($1, $2, $3, $4, $5, $6)",
		   mc_arg_text(unit->connection), mc_arg_text(unit->phase), mc_arg_text(list_id), offset,
		   mc_account_ids(part, rows), mc_arg_bool(mc_account_is_last(part, rows)));
}

static void
refresh_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;
	char *list_id;
	McArg offset;

	if (reply->status >= 300)
	{
		MC_SQL("SELECT mailchimp_sync.refresh_failed($1, 'answered', $2, $3, NULL)",
			   mc_arg_int8(unit->inflight_id), mc_arg_text(reply->title),
			   mc_arg_text(reply->detail));
		return;
	}
	/* none where the audience was dropped meanwhile, with its list's fields */
	if (MC_SQL("SELECT f.versions[1], a.list_id FROM mailchimp_sync.inflight f "
			   "LEFT JOIN mailchimp_sync.audience a USING (audience_id) "
			   "WHERE f.inflight_id = $1 AND (f.audience_id IS NULL OR a.list_id IS NOT NULL)",
			   mc_arg_int8(unit->inflight_id)) == 0)
		return;
	offset = mc_arg_int8(mc_result_int8(0, 1, NULL));
	list_id = mc_result_text(0, 2);
	if (strcmp(unit->phase, "account") == 0)
		account_answered(unit);
	else
		part_answered(unit, list_id, offset);
}

const McKind mc_refresh_kind = {.name = "refresh", .spare = MC_SPARE_BULK, .apply = refresh_apply};
