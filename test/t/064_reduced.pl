# What the model test (065_model.pl) has found, each reduced to a few steps (N5, N8, D10, D12, D13, R62, R74): answers that are lost
# while a contact leaves or moves and then wants something else, failures that outlive their reason.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 40);
my ($node, $sim) = @$crm{qw(node sim)};
my $run = $node->session(as => 'max');
my $delete = [ method => 'DELETE', path => '/members/' ];
my $patch = [ method => 'PATCH', path => '/members/' ];

$crm->sync;
$crm->setting(request_timeout => '3s');

sub status { return $crm->shown("$_[0]\@crm.test") =~ s/\|.*//r }

# A step of the engine while nothing is sent.
sub while_paused
{
	my ($step) = @_;
	$crm->ann("SELECT mc_pause('main', 'people')");
	$step->();
	$crm->run;
	$crm->ann("SELECT mc_resume('main', 'people')");
}

# -----------------------------------------------------------------------------------------------------------------
# A leave without an answer: whether it landed is not known, also when its ghost has ended
# -----------------------------------------------------------------------------------------------------------------

# It has not, the contact comes back and leaves again before anything was sent.
my $fault = $sim->fault(@$delete, fault => 'hang');
$crm->ann('UPDATE crm.candidate SET active = false WHERE id = 1');
$crm->run;
while_paused(sub { $crm->ann('UPDATE crm.candidate SET active = true WHERE id = 1'); $crm->run; $crm->later(131) });
while_paused(sub { $crm->ann('UPDATE crm.candidate SET active = false WHERE id = 1') });
$crm->run;
is(status('c1'), 'archived', 'R74: who leaves, comes back and leaves again is out, though no answer told about the first time');
is($crm->state(1), 'outside|the rule does not take it', 'and outside');

# It has, and the contact comes back with another address.
$sim->fault(@$delete, fault => 'reset_after');
$crm->ann('UPDATE crm.candidate SET active = false WHERE id = 2');
$crm->run;
while_paused(sub { $crm->later(131) });
$crm->ann("UPDATE crm.candidate SET active = true, email = 'back2\@crm.test' WHERE id = 2");
$crm->run;
is(status('back2') . ' ' . $crm->state(2), 'subscribed in_sync|', 'who comes back with another address is not taken for archived by somebody there');
is(status('c2'), 'none', 'it is the same member');

# It has, which was read, before the contact comes back with another address.
$sim->fault(@$delete, fault => 'reset_after');
$crm->ann('UPDATE crm.candidate SET email = NULL WHERE id = 29');
$crm->run;
$crm->later(660);
$crm->run;
is(status('c29') . ' ' . $crm->state(29), 'archived refused|has no e-mail address', 'who has no address any more is out');
$crm->later(60);
$crm->ann("UPDATE crm.candidate SET email = 'back29\@crm.test' WHERE id = 29");
$crm->run;
is(status('back29') . ' ' . $crm->state(29), 'subscribed in_sync|', 'moving them within the archive is not taken for archiving by somebody there');

# By the policy unsubscribe: it has not landed, so nobody is taken for unsubscribed.
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_leave": "unsubscribe"}')});
$sim->fault(@$patch, fault => 'hang');
$crm->ann('UPDATE crm.candidate SET active = false WHERE id = 3');
$crm->run;
$crm->ann('UPDATE crm.candidate SET active = true WHERE id = 3');
$crm->run;
$crm->later(131);
$crm->run;
is(status('c3') . ' ' . $crm->state(3), 'subscribed in_sync|', 'who was to be unsubscribed and was not');

# It has: we did that, and not the person, who is in no other audience out of it for that. Neither with a new address.
for my $case ([ 16, 'c16' ], [ 17, 'new17' ])
{
	my ($id, $to) = @$case;
	$sim->fault(@$patch, fault => 'reset_after');
	$crm->ann("UPDATE crm.candidate SET active = false WHERE id = $id");
	$crm->run;
	while_paused(sub { $crm->later(131) });
	$crm->ann("UPDATE crm.candidate SET active = true, email = '$to\@crm.test' WHERE id = $id");
	$crm->run;
	is(status($to) . ' ' . $crm->state($id), "unsubscribed inactive|unsubscribed at Mailchimp", "D9: whom we unsubscribed stays so, at $to");
	is($crm->rita("SELECT count(*) FROM mc_group_member WHERE contact_key = '$id'"), 0, 'but has not opted out');
}
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_leave": "archive"}')});
$crm->run;

# -----------------------------------------------------------------------------------------------------------------
# A move without an answer: the member is where it was, or where it was to go
# -----------------------------------------------------------------------------------------------------------------

# It has moved, and the contact leaves.
$sim->fault(@$patch, fault => 'reset_after');
$crm->ann("UPDATE crm.candidate SET email = 'new4\@crm.test' WHERE id = 4");
$crm->run;
is(status('new4'), 'subscribed', 'a move without an answer');
$crm->ann('UPDATE crm.candidate SET active = false WHERE id = 4');
$crm->later(131);
$crm->run;
is(status('new4') . ' ' . status('c4'), 'archived none', 'R74: who leaves then is out where the member is');

# It has moved, and the contact moves on, or back.
for my $case ([ 5, 'newer5' ], [ 6, 'c6' ])
{
	my ($id, $to) = @$case;
	$sim->fault(@$patch, fault => 'reset_after');
	$crm->ann("UPDATE crm.candidate SET email = 'new$id\@crm.test' WHERE id = $id");
	$crm->run;
	$crm->ann("UPDATE crm.candidate SET email = '$to\@crm.test' WHERE id = $id");
	$crm->later(131);
	$crm->run;
	is(status($to) . ' ' . status("new$id") . ' ' . $crm->state($id), 'subscribed none in_sync|', "who moves to $to then leaves nobody behind");
}

# Two are unsubscribed, one of them is gone, the other one takes its address, and a third one that of the other one.
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_unsubscribe": "inactive"}')});
$crm->act("c$_", 'unsubscribe') for 20, 21;
$crm->later(660);
$crm->run;
$crm->ann($_), $crm->run for 'DELETE FROM crm.candidate WHERE id = 21', q{UPDATE crm.candidate SET email = 'c21@crm.test' WHERE id = 20},
  q{INSERT INTO crm.candidate (id, email, owner_id) VALUES (103, 'c20@crm.test', 1)};
is($crm->state(20) . ' ' . $crm->state(103), 'inactive|unsubscribed at Mailchimp under its former address inactive|unsubscribed at Mailchimp',
	'D10: nobody is subscribed under an address that was unsubscribed');
sub to_do { return $crm->max(q{SELECT string_agg(concat_ws(' ', action, contact_key), ',') FROM mc_preview('people') WHERE action NOT IN ('skip', 'conflict')}) }
is(to_do(), '', 'N4: and a full comparison finds nothing to do');

# Whoever comes first is inactive, two more have the address, one of whom is a member there.
$crm->act('c25', 'unsubscribe');
$crm->later(660);
$crm->run;
$crm->ann(q{UPDATE crm.candidate SET email = 'c26@crm.test' WHERE id IN (25, 27)});
$crm->run;
is($crm->state(25) . ' ' . status('c26'), 'inactive|unsubscribed at Mailchimp under its former address subscribed', 'D13: who is inactive takes nothing away');
is(to_do(), '', 'N4: nor would the preview');

# Who was bounced away has no valid address any more when Mailchimp has them back.
$crm->act('c24', 'clean');
$crm->later(660);
$crm->run;
$crm->ann(q{UPDATE crm.candidate SET email = 'c 24@crm.test' WHERE id = 24});
$crm->run;
$crm->act('c24', 'resubscribe');
$crm->later(660);
$crm->run;
is(status('c24') . ' ' . to_do(), 'archived ', 'R62: they leave as soon as that is read');
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_unsubscribe": "opt_out"}')});
$crm->run;

# Three exchange their addresses; one has stepped aside, which no answer told, when the address that its rival wants opts out.
my %wants = (c7 => 'c8', c8 => 'c9', c9 => 'c7');
$sim->fault(@$patch, fault => 'reset_after');
$crm->ann(q{UPDATE crm.candidate SET email = CASE id WHEN 7 THEN 'c8@crm.test' WHEN 8 THEN 'c9@crm.test' ELSE 'c7@crm.test' END WHERE id IN (7, 8, 9)});
$crm->run;
my ($aside) = map { /^(c\d)\+moving/ ? $1 : () } keys %{ { $crm->members } };
$crm->max("SELECT mc_opt_out_email('$wants{$aside}\@crm.test')");
$crm->run;
$crm->later(131), $crm->run for 1 .. 2;
is(join(' ', grep { /moving/ && $crm->member($_)->{status} eq 'subscribed' } keys %{ { $crm->members } }), '', 'nobody is left aside');
isnt(status($wants{$aside}), 'subscribed', 'D12: and nobody is mailed under the address that opted out');
my %reached = map { $_ => 1 } grep { status($_) eq 'subscribed' } keys %wants;
is($crm->rita("SELECT count(*) FROM mc_contact_state WHERE contact_key IN ('7', '8', '9') AND state = 'in_sync'"), scalar keys %reached, 'who is in sync is there');

# -----------------------------------------------------------------------------------------------------------------
# An address that has opted out long ago, taken by somebody who is a member under another one (D12)
# -----------------------------------------------------------------------------------------------------------------

$crm->max(q{SELECT mc_opt_out_email('c10@crm.test')});
$crm->run;
$crm->ann("DELETE FROM crm.candidate WHERE id = 10");
$crm->run;
$crm->ann("UPDATE crm.candidate SET email = 'c10\@crm.test' WHERE id = 11");
$crm->run;
is($crm->state(11) . ' ' . status('c11'), 'opted_out|is in the opt-out group unsubscribed', 'its former address is not mailed either');

# A move that has not landed, of somebody who opts out.
$sim->fault(@$patch, fault => 'reset_before');
$crm->ann("UPDATE crm.candidate SET email = 'new28\@crm.test' WHERE id = 28");
$crm->run;
$crm->max(q{SELECT mc_opt_out('candidate', 28)});
$crm->run;
$crm->later(131);
$crm->requests;
$crm->run;
is(status('c28') . ' ' . status('new28'), 'unsubscribed none', 'who opts out is unsubscribed where the member is');
unlike($crm->requests, qr/404.*404/, 'and looked for once where it has not gone');

# A contact in the group takes the address of somebody whom the policy kept as a member.
$crm->max(q{SELECT mc_opt_out('candidate', 22)});
$crm->run;
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_leave": "keep"}'); DELETE FROM crm.candidate WHERE id = 23});
$crm->run;
is(status('c23'), 'subscribed', 'a member that is kept');
$crm->ann(q{UPDATE crm.candidate SET email = 'c23@crm.test' WHERE id = 22});
$crm->run;
is(status('c23'), 'unsubscribed', 'is not mailed when its address is that of somebody who opted out');
# Or has it already when the one for whom the member is there goes.
$crm->ann(q{UPDATE crm.candidate SET email = 'shared@crm.test' WHERE id = 22});
$crm->run;
$crm->ann(q{INSERT INTO crm.candidate (id, email) VALUES (41, 'shared@crm.test')});
$crm->run;
is(status('shared'), 'subscribed', 'somebody else with the address of somebody who opted out');
$crm->ann('DELETE FROM crm.candidate WHERE id = 41');
$crm->run;
is(status('shared'), 'unsubscribed', 'is kept as a member, but not as one who is mailed');
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_leave": "archive"}')});
$crm->run;

# Leaving the group with a question, by the address of a contact whom the rule does not take: a member of somebody else's is not asked.
$crm->ann(q{UPDATE crm.candidate SET active = false, email = 'guest18@crm.test' WHERE id = 18});
$crm->run;
$crm->act('guest18', $_) for 'add', 'admin_unsubscribe';
$crm->later(660);
$crm->run;
$crm->max(q{SELECT mc_opt_out_email('guest18@crm.test')});
$crm->run;
$crm->max(q{SELECT mc_opt_in_email('guest18@crm.test', true)});
$crm->run;
is(status('guest18'), 'unsubscribed', 'D15: whom no rule wants is not asked');

# -----------------------------------------------------------------------------------------------------------------
# Failures end with their reason (R62, N8)
# -----------------------------------------------------------------------------------------------------------------

# Refused while the contact opts out.
$crm->ann("INSERT INTO crm.candidate (id, email) VALUES (101, 'fake101\@crm.test')");
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'after');
McTest::begin($run, 'CALL mc_run();');
$sim->wait_held;
$crm->max(q{SELECT mc_opt_out('candidate', 101)});
$node->wait_until("SELECT state = 'opted_out' FROM mc_contact_state WHERE contact_key = '101'", as => 'rita');
$sim->release;
$run->query('');
$crm->run;
is($crm->failure(101), '', 'what Mailchimp refused of who has opted out meanwhile is no failure');

# Refused by Mailchimp, then by us.
$crm->ann("INSERT INTO crm.candidate (id, email) VALUES (102, 'fake102\@crm.test')");
$crm->run;
isnt($crm->failure(102), '', 'an address that Mailchimp refuses');
$crm->ann('UPDATE crm.candidate SET email = NULL WHERE id = 102');
$crm->run;
is($crm->state(102) . ' ' . $crm->failure(102), 'refused|has no e-mail address ', 'its words go with that address');

# A move that Mailchimp refuses, and that is taken back.
$crm->ann("UPDATE crm.candidate SET email = 'fake12\@crm.test' WHERE id = 12");
$crm->run;
like($crm->failure(12), qr/^rename/, 'a move that Mailchimp refuses');
$crm->ann("UPDATE crm.candidate SET email = 'c12\@crm.test' WHERE id = 12");
$crm->run;
is($crm->state(12) . ' ' . $crm->failure(12), 'in_sync| ', 'taken back it is no failure');

# Opt-outs that cannot be carried, and then need not be.
sub leaves { return $crm->rita("SELECT string_agg(contact_key, ' ' ORDER BY contact_key) FROM mc_failure WHERE work = 'leave'") }
$sim->fault(@$patch, times => -1, fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->max(q{SELECT mc_opt_out_email('c13@crm.test'); SELECT mc_opt_out('candidate', 14); SELECT mc_opt_out('candidate', 15)});
$crm->run;
is(leaves(), $node->query("SELECT '14 15 ' || md5('c13\@crm.test')"), 'opt-outs that Mailchimp refuses to take');
$sim->post('/_sim/act', { list => $crm->{list}, email => 'c15@crm.test', action => 'unsubscribe' });
$crm->max(q{SELECT mc_opt_in_email('c13@crm.test'); SELECT mc_opt_in('candidate', 14)});
$crm->later(660);
$crm->run;
is(leaves(), '', 'taken back, or done by the person, they are no failures');
$sim->delete('/_sim/faults');

$run->quit;
done_testing();
