# Contacts put in and out by hand (R77, R94, N1, N17, D20): stronger than the rule, weaker than the link flag, opt-outs and
# what Mailchimp refuses; the writers wait for nobody. What transactions at the same time come to is in
# specs/by_hand.spec.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 20);
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $delete = 'DELETE /lists/{list_id}/members/{subscriber_hash} 204';
my $post = 'POST /lists/{list_id} 200';

sub act { my ($id, $action) = @_; $sim->post('/_sim/act', { list => $list, email => "c$id\@crm.test", action => $action }) }
sub by_hand { my ($verb, @ids) = @_; $crm->max(join ';', map { "SELECT mc_${verb}_member('people', 'candidate', $_)" } @ids) }
sub at_mailchimp { my ($id) = @_; return $crm->member("c$id\@crm.test")->{status} // 'none' }
sub look { my ($id) = @_; return at_mailchimp($id) . ' ' . $crm->state($id) }

$crm->ann("UPDATE crm.candidate SET active = false WHERE id > 10");
by_hand(add => 20);
$crm->run;
is($crm->requests, '', 'D21: by hand, too, nothing happens before the audience is on');
is($crm->max("SELECT action FROM mc_preview('people') WHERE contact_key = '20'"), 'subscribe', 'N4: but the preview shows it');
$crm->sync;
$crm->requests;
is($crm->status, 'in_sync 11', 'the rule takes ten');
is(look(20), 'subscribed in_sync|', 'one came in by hand');

# -----------------------------------------------------------------------------------------------------------------
# In, out, and back to the rule
# -----------------------------------------------------------------------------------------------------------------

by_hand(add => 11);
is($crm->max("SELECT action, contact_key FROM mc_preview('people')"), 'subscribe|11', 'R77: put in; the preview');
$crm->run;
is($crm->requests, $post, 'is subscribed');
is(look(11), 'subscribed in_sync|', 'although the rule does not take it');
by_hand(add => 11, "' 11'", "11::bigint", "'11'::text");
$crm->run;
is($crm->requests, '', 'once more is nothing');
is($node->query("SELECT count(*) FROM mailchimp_sync.hand_given WHERE contact_key = '11'"), 1, 'and leaves nothing');
$crm->ann("UPDATE crm.candidate SET first_name = 'New' WHERE id = 11");
$crm->run;
is($crm->shown('c11@crm.test') . ' ' . $crm->requests, "subscribed|New|g2 $post", 'R75: its changes are sent');

by_hand(remove => 1);
is($crm->max("SELECT action, contact_key, reason FROM mc_preview('people')"), 'leave|1|removed by hand', 'R77: put out; the preview');
$crm->run;
is($crm->requests, $delete, 'leaves by the policy');
is(look(1), 'archived inactive|removed by hand', 'is inactive, although the rule takes it');
is($crm->ann('SELECT active FROM crm.candidate WHERE id = 1'), 't', 'R76: the record in the CRM stays as it is');
by_hand(remove => 1);
$crm->ann("UPDATE crm.candidate SET first_name = 'New' WHERE id = 1");
$crm->sync;
is($crm->requests, '', 'what changes then is not sent');

by_hand(release => 1, 11, 12);
$crm->run;
is($crm->requests, "$delete, $post", 'back to the rule');
is(look(1) . ', ' . look(11), 'subscribed in_sync|, archived outside|the rule does not take it', 'which takes the one and not the other');
is($crm->shown('c1@crm.test'), 'subscribed|New|g1', 'with the data of today');
is($crm->state(12), '', 'whom nobody ever put in or out is no row');
by_hand(add => 12);
by_hand(remove => 12);
by_hand(remove => 13);
$crm->run;
is($crm->requests . look(12) . ' ' . look(13), 'none inactive|removed by hand none inactive|removed by hand', 'put in and out again; put out whom the rule does not take');
by_hand(add => 12, 13);
$crm->run;
is($crm->pushed . look(12), '2subscribed in_sync|', 'put in after all');
is($crm->status, 'in_sync 13 outside 1', 'the states add up');

# -----------------------------------------------------------------------------------------------------------------
# Weaker than the link flag, opt-outs, Mailchimp's own verdict, and no row at all
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("UPDATE crm.candidate SET linked = false WHERE id = 12");
$crm->max("SELECT mc_opt_out('candidate', 13)");
act(14, 'add');
act(14, 'unsubscribe');
$crm->ann("UPDATE crm.candidate SET email = 'fake14\@crm.test' WHERE id = 15; DELETE FROM crm.candidate WHERE id = 20");
by_hand(add => 14, 15);
$crm->run;
is(look(12), 'archived not_linked|its link flag is off', 'R57: the link flag is stronger');
is(look(13), 'unsubscribed opted_out|is in the opt-out group', 'R48: an opt-out is stronger');
is(look(14), 'unsubscribed opted_out|is in the opt-out group', 'D10: who unsubscribed at Mailchimp is not subscribed, and joins the group');
like($crm->state(15), qr/^refused\|.*fake or invalid/, 'an address that Mailchimp refuses');
is(look(20), 'archived outside|its row is gone', 'a deleted row');
by_hand(remove => 2);
$crm->max("SELECT mc_opt_out('candidate', 2)");
$crm->run;
is(at_mailchimp(2), 'unsubscribed', 'put out and opted out: it is unsubscribed');
$crm->ann("UPDATE crm.candidate SET linked = true WHERE id = 12; INSERT INTO crm.candidate (id, first_name, email, active) VALUES (20, 'Back', 'c20\@crm.test', false)");
$crm->run;
is(look(12) . ' ' . look(20), 'subscribed in_sync| subscribed in_sync|', 'when the reason is gone they are in again');
$crm->ann("UPDATE crm.candidate SET active = true WHERE id = 12");
by_hand(release => 12);
$crm->requests;
$crm->run;
is($crm->requests, '', 'released to a rule that takes it: nothing happens');

# Other policies: see 044_policies.pl; while a request is under way the last word counts.
for my $when ('before', 'after')
{
	by_hand(remove => 3);
	$sim->hold(method => 'DELETE', path => '/members/', when => $when);
	my $run = $node->session(as => 'max');
	McTest::begin($run, 'CALL mc_run();');
	$sim->wait_held;
	by_hand(add => 3);
	$node->wait_until("SELECT value = '0' FROM mc_status WHERE item = 'events'");
	$sim->release;
	$run->query('');
	$run->quit;
	is(look(3), 'subscribed in_sync|', "put in again while the leave is under way ($when)");
	by_hand(release => 3);
}

# -----------------------------------------------------------------------------------------------------------------
# What is refused
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("SELECT mc_add_source('other', 'crm.owner', 'id', 'name')");
sub refused { my ($sql, $error, $what, $as) = @_; like($node->error("SELECT $sql", as => $as // 'max'), $error, $what) }
my $of = "'people', 'candidate'";
refused("mc_add_member($of, 999)", qr/42704: source "candidate" has no contact "999"/, 'nobody can be put in who is not there');
refused("mc_${_}_member($of, 'seven')", qr/22P02: "seven" is not a key of source "candidate"/, "mc_${_}_member: no key") for qw(add remove release);
refused("mc_add_member('peopel', 'candidate', 1)", qr/42704: audience "peopel" does not exist\n(?s:.*)"people"/, 'no such audience');
refused("mc_add_member('people', 'candidates', 1)", qr/42704: source "candidates" does not exist\n(?s:.*)"candidate"/, 'no such source');
refused("mc_add_member('people', 'other', 1)", qr/55000: source "other" does not belong to audience "people"\nHINT:  Its sources are: candidate\./, 'a source that the audience does not have');
refused("mc_add_member(NULL, 'candidate', 1)", qr/22004/, 'no audience');
refused("mc_${_}_member($of, 1)", qr/42501/, "D19: mc_${_}_member takes a marketer", 'rita') for qw(add remove release);
$node->query("CREATE SERVER second FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6'); CREATE ROLE eve LOGIN; SELECT mc_grant('eve', 'marketer', 'second')");
refused("mc_add_member($of, 1)", qr/42501/, 'of the connection', 'eve');
is($crm->max("SELECT mc_remove_member($of, 999), mc_release_member($of, 999), mc_remove_member($of, 998), mc_add_member($of, NULL),
	mc_remove_member($of, NULL::integer), mc_release_member($of, NULL)"), '|||||', 'nobody is no error, nor is one who is not there put out');
$crm->max("BEGIN; SELECT mc_add_member($of, 16); SELECT mc_remove_member($of, 4); ROLLBACK");
$crm->ann("INSERT INTO crm.candidate (id, email) VALUES (998, 'c998\@crm.test')");
$crm->requests;
$crm->run;
is($crm->requests, '', 'N1: ROLLBACK leaves no trace');
is(look(998), 'none inactive|removed by hand', 'who was put out before there was a row stays out');

# -----------------------------------------------------------------------------------------------------------------
# A selection (R94); an open transaction holds up nobody (N17)
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("GRANT USAGE ON SCHEMA crm TO max; GRANT SELECT ON crm.candidate TO max;
	INSERT INTO crm.candidate SELECT g, 'F' || g, 'L' || g, 'c' || g || '\@crm.test', 1, false, true FROM generate_series(1001, 2200) g");
$crm->run;
$crm->requests;
my $open = $node->session(as => 'max');
$open->query("BEGIN; SELECT mc_add_member($of, id) FROM crm.candidate WHERE id > 1000 ORDER BY id DESC");
$crm->max("SELECT mc_add_member($of, id) FROM crm.candidate WHERE id BETWEEN 1101 AND 2200 ORDER BY id");
$crm->run;
is($crm->pushed, '500 500 100', 'R94: selected contacts, while somebody else adds the same and has not committed');
$open->query('COMMIT');
$open->quit;
$crm->run;
is($crm->pushed, '100', 'and then the others');
$node->query('SELECT mailchimp_sync.tidy_hand()');
is($node->query("SELECT count(*) FROM mailchimp_sync.hand_given WHERE contact_key::bigint BETWEEN 1001 AND 2200"), 1200, 'what does not count is cleared away');

# The engine and a transaction that puts somebody out never wait for each other.
$open = $node->session(as => 'max');
$open->query("BEGIN; SELECT mc_remove_member($of, id) FROM crm.candidate WHERE id BETWEEN 1001 AND 1003");
$crm->ann("UPDATE crm.candidate SET first_name = 'Moved' WHERE id BETWEEN 1001 AND 1003");
$crm->requests;
$crm->run;
is($crm->requests, $post, 'the engine goes on');
$open->query('COMMIT');
$open->quit;
$crm->run;
is($crm->requests, join(', ', ($delete) x 3), 'and does then what was decided');

done_testing();
